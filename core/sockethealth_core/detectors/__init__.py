"""The detectors, by name. Each module is one: its value, its default rules, its words."""

from types import MappingProxyType
from typing import Final

from sockethealth_core.detectors import (
    close_wait_leak,
    ephemeral_ports,
    inbound_time_wait,
    outbound_time_wait,
)
from sockethealth_core.detectors.base import Advice, Detector, Parameters, Reading, Subject, describe

DETECTORS: Final = MappingProxyType(
    {
        module.DETECTOR.name: module.DETECTOR
        for module in (ephemeral_ports, outbound_time_wait, inbound_time_wait, close_wait_leak)
    }
)

__all__ = ["DETECTORS", "Advice", "Detector", "Parameters", "Reading", "Subject", "describe"]
