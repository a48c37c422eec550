"""An upgrade of the chart, of which the definitions are a part."""

import json

import pytest

pytestmark = pytest.mark.node


def _priority(cluster):
    """The schema of SysctlProfile's spec.priority, if it has one."""
    spec = cluster.get("customresourcedefinition", "sysctlprofiles.sockethealth.io")["spec"]
    schema = spec["versions"][0]["schema"]["openAPIV3Schema"]
    return schema["properties"]["spec"]["properties"].get("priority")


def test_an_upgrade_brings_the_definitions_to_the_charts_version(product):
    current = _priority(product.cluster)
    assert current is not None
    path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/priority"
    product.cluster.kubectl(
        *("patch", "customresourcedefinition", "sysctlprofiles.sockethealth.io", "--type=json"),
        *("-p", json.dumps([{"op": "remove", "path": path}])),
    )
    assert _priority(product.cluster) is None
    product.upgrade()
    assert _priority(product.cluster) == current
