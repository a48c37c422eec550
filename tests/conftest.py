"""Fixtures and skips of all tests come from the harness."""

from hypothesis import settings

pytest_plugins = ["harness.plugin"]

# How long an example takes says how busy the machine is, and not whether the code is right.
settings.register_profile("sockethealth", deadline=None)
settings.load_profile("sockethealth")
