"""`helm test` on the installed product."""

import pytest

from product_lab import RELEASE

pytestmark = pytest.mark.node


def test_helm_test_proves_the_installation_says_what_it_saw_and_leaves_nothing(product):
    done = product.cluster.helm("test", RELEASE, "-n", product.namespace, "--timeout", "2m")
    assert "Phase:          Succeeded" in done.stdout
    # Helm shows the log of the pod on standard error.
    assert "Agents report from every node they are for: 1 of 1." in done.stderr
    assert "A profile with a sysctl outside of the table is refused." in done.stderr
    left = product.cluster.get(
        *("pods,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings", "-n", product.namespace),
        *("-l", "app.kubernetes.io/component=test"),
    )
    assert left["items"] == []
