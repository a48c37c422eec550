"""Names of addresses."""

from sockethealth_core.resources import Target
from sockethealth_operator.objects import Key
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
    targets.forget(Key("Service", "shop", "redis"))
    assert named(targets, "10.0.0.1", 6380) == ""


def test_an_address_that_has_passed_on_stays_with_its_new_owner():
    targets = Targets()
    targets.observe_service(service("old", ["10.0.0.1"], [(80, "TCP")]))
    targets.observe_service(service("new", ["10.0.0.1"], [(80, "TCP")]))
    targets.forget(Key("Service", "shop", "old"))
    assert named(targets, "10.0.0.1", 80) == "Service shop/new"


def test_a_name_the_target_has_is_kept_where_none_is_known():
    target = Target(address="10.0.0.9", port=1, name="Pod shop/web-1")
    assert Targets().name(target) == target


def endpoint_slice(name, service, addresses, port):
    return {
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address]} for address in addresses],
    }


def pod(name, *addresses):
    return {"metadata": {"name": name, "namespace": "shop"}, "spec": {"podIPs": list(addresses)}}


def test_a_backend_is_its_service_on_the_services_port_and_its_pod_on_any_other():
    targets = Targets()
    targets.observe_pod(pod("redis-0", "10.244.0.7", "fd00::7"))
    targets.observe_endpoint_slice(endpoint_slice("redis-abc", "redis", ["10.244.0.7"], 6379))
    assert named(targets, "10.244.0.7", 6379) == "Service shop/redis"
    assert named(targets, "10.244.0.7", 9121) == "Pod shop/redis-0"
    assert named(targets, "fd00::7") == "Pod shop/redis-0"
    targets.forget(Key("EndpointSlice", "shop", "redis-abc"))
    assert named(targets, "10.244.0.7", 6379) == "Pod shop/redis-0"


def test_a_backend_in_two_slices_is_known_until_both_are_gone():
    targets = Targets()
    for name in ("a", "b"):
        targets.observe_endpoint_slice(endpoint_slice(name, "redis", ["10.244.0.7"], 6379))
    targets.forget(Key("EndpointSlice", "shop", "a"))
    assert named(targets, "10.244.0.7", 6379) == "Service shop/redis"
    targets.forget(Key("EndpointSlice", "shop", "b"))
    assert named(targets, "10.244.0.7", 6379) == ""
