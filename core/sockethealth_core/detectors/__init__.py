"""The detectors, by name. Each module is one: its value, its default rules, its words."""

from types import MappingProxyType
from typing import Final

from sockethealth_core.detectors import (
    accept_queue_overflow,
    close_wait_leak,
    conntrack_pressure,
    ephemeral_ports,
    expression,
    fin_wait2_buildup,
    inbound_time_wait,
    outbound_time_wait,
    retransmission_storm,
    single_source_churn,
    syn_backlog_pressure,
    tcp_memory_pressure,
    time_wait_table_overflow,
    unsafe_sysctl,
)
from sockethealth_core.detectors.base import Advice, Detector, MeasureError, Parameters, Reading, Subject, describe

DETECTORS: Final = MappingProxyType(
    {
        module.DETECTOR.name: module.DETECTOR
        for module in (
            ephemeral_ports,
            outbound_time_wait,
            inbound_time_wait,
            single_source_churn,
            close_wait_leak,
            fin_wait2_buildup,
            accept_queue_overflow,
            syn_backlog_pressure,
            time_wait_table_overflow,
            retransmission_storm,
            unsafe_sysctl,
            tcp_memory_pressure,
            conntrack_pressure,
            expression,
        )
    }
)

__all__ = ["DETECTORS", "Advice", "Detector", "MeasureError", "Parameters", "Reading", "Subject", "describe"]
