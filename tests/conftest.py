"""Fixtures and skips of all tests come from the harness."""

pytest_plugins = ["harness.plugin"]
