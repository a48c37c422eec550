"""The addresses of the test cluster, chosen apart from the defaults of common tools, and free ports."""

import socket

API_ADDRESS = "10.213.0.1"  # on lo while a node runs: pods have to reach the API server
POD_CIDR = "10.213.64.0/24"
SERVICE_CIDR = "10.213.128.0/20"
FIRST_SERVICE_ADDRESS = "10.213.128.1"  # the Service `kubernetes` takes the first address of the range
BRIDGE = "shtest0"


def free_ports(count: int) -> list[int]:
    """TCP ports that were free on all addresses a moment ago, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def listens(port: int, address: str = "127.0.0.1") -> bool:
    """Whether somebody accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((address, port)) == 0
