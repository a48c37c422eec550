import shutil

import pytest

from harness import packages
from harness.errors import HarnessError
from harness.plugin import skip_or_fail


@pytest.fixture(scope="session")
def promtool() -> str:
    """Prometheus' own checker of rules."""
    if shutil.which("promtool") is None:
        try:
            packages.ensure(packages.MONITORING)
        except HarnessError as error:
            skip_or_fail(f"promtool is missing: {error}")
    return "promtool"
