"""The product as a user installs it: the chart, with no values but the image."""

import importlib.util
from collections.abc import Iterator
from types import ModuleType

import pytest

from harness.images import REPOSITORY
from product_lab import Product
from watched_leak import WatchedLeak, watched_leak

DEMO = REPOSITORY / "demo" / "demo.py"
LATE = ("test_e2e_in_prometheus", "test_e2e_lifecycle", "test_e2e_pages", "test_e2e_soak", "test_e2e_sysctls")
"""What waits for a leak that is a minute old runs once everything else has that can run meanwhile; then what takes the
product away."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the files of LATE to the end, in that order."""
    items.sort(key=lambda item: LATE.index(item.path.stem) if item.path.stem in LATE else -1)


@pytest.fixture(scope="session")
def product(cluster_node) -> Iterator[Product]:
    """SocketHealth, installed; taken away at the end of the session."""
    product = Product(cluster_node, cluster_node.image)
    try:
        product.install()
        yield product
    finally:
        if product.is_installed():
            product.uninstall()


@pytest.fixture(scope="session", name="watched_leak")
def watched_leak_fixture(product: Product, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedLeak]:
    """A leak that a Prometheus and an Alertmanager see; asked for early, to be old enough when it is looked at."""
    with watched_leak(product, tmp_path_factory.mktemp("prometheus")) as made:
        yield made


@pytest.fixture(scope="session")
def demo(product: Product) -> Iterator[ModuleType]:
    """`make demo` without its cluster, of which a machine can have one at a time.

    Its workloads are started, and asked for early, too: it takes most of a minute until ports are scarce.
    """
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.start_workloads(product.cluster, product.cluster.image)
    yield module
    product.cluster.kubectl("delete", "namespace", module.NAMESPACE, "--wait=false", check=False)
