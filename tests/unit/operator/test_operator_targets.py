"""Names of addresses."""

from sockethealth_core.resources import Target
from sockethealth_operator.targets import Targets


def service(name, addresses, ports, namespace="shop"):
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterIPs": addresses, "ports": [{"port": p, "protocol": protocol} for p, protocol in ports]},
    }


def named(targets, address, port=0):
    return targets.name(Target(address=address, port=port)).name


def test_a_service_is_its_addresses_with_its_tcp_ports():
    targets = Targets()
    targets.observe_service(service("redis", ["10.0.0.1", "fd00::1"], [(6379, "TCP"), (53, "UDP")]))
    assert named(targets, "10.0.0.1", 6379) == "Service shop/redis"
    assert named(targets, "fd00:0::1", 6379) == "Service shop/redis"
    assert named(targets, "::ffff:10.0.0.1", 6379) == "Service shop/redis"
    assert named(targets, "10.0.0.1", 53) == ""
    assert named(targets, "10.0.0.2", 6379) == ""


def test_a_headless_service_has_no_address():
    targets = Targets()
    targets.observe_service(service("headless", ["None"], [(80, "TCP")]))
    assert named(targets, "None", 80) == ""


def test_a_node_is_its_addresses_with_any_port():
    targets = Targets()
    addresses = [{"type": "InternalIP", "address": "192.168.0.4"}, {"type": "Hostname", "address": "node-a"}]
    targets.observe_node({"metadata": {"name": "node-a"}, "status": {"addresses": addresses}})
    assert named(targets, "192.168.0.4", 10250) == "Node node-a"
    assert named(targets, "node-a") == ""


def test_a_change_and_a_deletion_are_followed():
    targets = Targets()
    targets.observe_service(service("redis", ["10.0.0.1"], [(6379, "TCP")]))
    targets.observe_service(service("redis", ["10.0.0.1"], [(6380, "TCP")]))
    assert (named(targets, "10.0.0.1", 6379), named(targets, "10.0.0.1", 6380)) == ("", "Service shop/redis")
    targets.forget("Service shop/redis")
    assert named(targets, "10.0.0.1", 6380) == ""


def test_an_address_that_has_passed_on_stays_with_its_new_owner():
    targets = Targets()
    targets.observe_service(service("old", ["10.0.0.1"], [(80, "TCP")]))
    targets.observe_service(service("new", ["10.0.0.1"], [(80, "TCP")]))
    targets.forget("Service shop/old")
    assert named(targets, "10.0.0.1", 80) == "Service shop/new"


def test_a_name_the_target_has_is_kept_where_none_is_known():
    target = Target(address="10.0.0.9", port=1, name="Pod shop/web-1")
    assert Targets().name(target) == target
