"""The one exception of the harness."""


class HarnessError(Exception):
    """Something the cluster needs is missing or failed; the message is a sentence that says what to do."""
