"""Alerts and dashboards, made from the detectors and the table of series; the chart ships what is made."""
