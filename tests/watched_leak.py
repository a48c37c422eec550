"""A pod that leaks under the eyes of a real Prometheus and Alertmanager.

What it leaks has to be a minute old before an alert is due, so it begins with the first test of the product, and others
run meanwhile.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harness import packages
from harness.errors import HarnessError
from harness.plugin import skip_or_fail
from product_lab import Place, Product
from prometheus_lab import Monitoring

LEAK: Final = "SocketHealthCloseWaitLeak"
LEAKED: Final = 120
MIN_AGE_SECONDS: Final = 60
SWEEP_SECONDS: Final = 10
FOR_SECONDS: Final = 4
_CUSTOM: Final = {
    LEAK: {"for": f"{FOR_SECONDS}s", "keepFiringFor": "2s"},
    "SocketHealthPolicyFinding": {"keepFiringFor": "2s"},
}
_POLICY: Final[dict[str, Any]] = {
    "apiVersion": "sockethealth.io/v1alpha1",
    "kind": "SocketHealthPolicy",
    "metadata": {"name": "quick"},
    "spec": {
        "rules": [
            {
                "name": "leak",
                "detector": "CloseWaitLeak",
                "threshold": 100,
                "clearThreshold": 10,
                "for": "2s",
                "clearAfter": "5s",
                "parameters": {"minAge": "5s"},
            }
        ]
    },
}


@dataclass(frozen=True)
class WatchedLeak:
    """The pod, `app=leaking`, and who watches it."""

    place: Place
    monitoring: Monitoring


@contextmanager
def watched_leak(product: Product, folder: Path) -> Iterator[WatchedLeak]:
    """Begin it; at the end all of it goes."""
    try:
        packages.ensure(packages.MONITORING)
        monitoring = Monitoring(product, folder)
    except HarnessError as error:
        skip_or_fail(f"Prometheus, or a way for it into the cluster, is missing: {error}")
    place = Place(product, "test-alerts")
    try:
        monitoring.start("--set-json", f"defaultRules.customRules={json.dumps(_CUSTOM)}")
        place.apply(_POLICY)
        server = place.service("impatient")
        place.deployment("impatient", "python3", "/scripts/server.py", "--close-after=1")
        place.deployment("leaking", "python3", "/scripts/leaking_client.py", server, f"--count={LEAKED}", "--rate=400")
        yield WatchedLeak(place, monitoring)
    finally:
        place.delete()
        monitoring.stop()
