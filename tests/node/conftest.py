"""The product as a user installs it: the chart, with no values but the image."""

from collections.abc import Iterator

import pytest

from product_lab import Product
from watched_leak import WatchedLeak, watched_leak


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
