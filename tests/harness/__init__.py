"""Brings up a real Kubernetes for the tests and the demo, and takes it away again."""
