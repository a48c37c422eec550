"""The product as a user installs it: the chart, with no values but the image."""

from collections.abc import Iterator

import pytest

from product_lab import Product


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
