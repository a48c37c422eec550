"""etcd, API server, controller manager and scheduler: start, readiness, and outages on purpose."""

import json
import ssl
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import network, pki
from harness.binaries import path_of
from harness.components import Components
from harness.errors import HarnessError
from harness.state import ClusterDir

_CONTROLLERS = ("kube-controller-manager", "kube-scheduler")

_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [
        # Kubernetes' own controllers write more than all others, and no test asks who of them did.
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
        {
            "level": "Metadata",
            "userGroups": ["system:serviceaccounts"],
            "verbs": ["create", "update", "patch", "delete", "deletecollection"],
        },
        {"level": "None"},
    ],
}
"""Writes of service accounts: few, so that the log costs nothing where no test reads it."""


@dataclass(frozen=True)
class Ports:
    """The TCP ports of one control plane."""

    etcd_client: int
    etcd_peer: int
    apiserver: int


def _ports_file(directory: ClusterDir) -> Path:
    return directory.path / "ports.json"


class ControlPlane:
    """The control plane of one cluster directory."""

    def __init__(self, directory: ClusterDir, components: Components) -> None:
        self._directory = directory
        self._components = components
        file = _ports_file(directory)
        if not file.exists():
            file.write_text(json.dumps(asdict(Ports(*network.free_ports(3)))))
        self._ports = Ports(**json.loads(file.read_text()))

    @property
    def server(self) -> str:
        """The URL of the API server on this machine."""
        return f"https://127.0.0.1:{self._ports.apiserver}"

    @property
    def audit_log(self) -> Path:
        """Where the API server writes down who has written what, one JSON object a line."""
        return self._directory.path / "audit.log"

    def start(self) -> None:
        """Start everything and wait until the API answers and its controllers work.

        Raises:
            HarnessError: A component did not come up; the message has the end of its log.
        """
        pki.create(self._directory, self.server)
        self._start_etcd()
        self._start_apiserver()
        self._start_controllers()

    def start_apiserver(self) -> None:
        """Start the API server again after an outage, and wait until it is ready.

        The controllers start anew with it: after an outage each backs off by itself, the longer the outage the
        longer, and what comes next would wait for a Deployment's pods or a service account for minutes.
        """
        self._start_apiserver()
        for component in _CONTROLLERS:
            self._components.end(component)
        self._start_controllers()

    def _start_apiserver(self) -> None:
        keys = self._directory.pki
        policy = self._directory.path / "audit-policy.json"
        policy.write_text(json.dumps(_AUDIT_POLICY))
        self._spawn(
            "kube-apiserver",
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self.audit_log}",
            f"--etcd-servers=http://127.0.0.1:{self._ports.etcd_client}",
            f"--secure-port={self._ports.apiserver}",
            f"--advertise-address={network.API_ADDRESS}",
            f"--tls-cert-file={keys / 'apiserver.crt'}",
            f"--tls-private-key-file={keys / 'apiserver.key'}",
            f"--client-ca-file={keys / 'ca.crt'}",
            f"--token-auth-file={keys / 'tokens.csv'}",
            f"--kubelet-client-certificate={keys / 'kubelet-client.crt'}",
            f"--kubelet-client-key={keys / 'kubelet-client.key'}",
            "--kubelet-preferred-address-types=InternalIP",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged",
            f"--service-cluster-ip-range={network.SERVICE_CIDR}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={keys / 'service-accounts.pub'}",
            f"--service-account-signing-key-file={keys / 'service-accounts.key'}",
        )
        self._components.wait("kube-apiserver", lambda: self._answers("/readyz"), "the API server to be ready")

    def stop_apiserver(self) -> None:
        """End the API server without warning, as a crash would; etcd keeps the data."""
        self._components.end("kube-apiserver")

    def _start_etcd(self) -> None:
        client = f"http://127.0.0.1:{self._ports.etcd_client}"
        peer = f"http://127.0.0.1:{self._ports.etcd_peer}"
        self._spawn(
            "etcd",
            f"--data-dir={self._directory.path / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        )
        # The API server backs off for seconds when etcd is not there at its first attempt.
        self._components.wait("etcd", lambda: network.listens(self._ports.etcd_client), "etcd to listen")

    def _start_controllers(self) -> None:
        keys = self._directory.pki
        self._spawn(
            "kube-controller-manager",
            f"--kubeconfig={pki.kubeconfig_of(self._directory, 'kube-controller-manager')}",
            "--leader-elect=false",
            "--secure-port=0",
            f"--service-account-private-key-file={keys / 'service-accounts.key'}",
            f"--root-ca-file={keys / 'ca.crt'}",
            "--use-service-account-credentials",
            # The default of 20 requests a second makes its start take 5 s, as every controller gets a token.
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        )
        self._spawn(
            "kube-scheduler",
            f"--kubeconfig={pki.kubeconfig_of(self._directory, 'kube-scheduler')}",
            "--leader-elect=false",
            "--secure-port=0",
        )
        # Pods are refused in a namespace without it, and its being there shows that controllers run.
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self._components.wait(
            "kube-controller-manager",
            lambda: self._answers(account),
            "the controllers to make a service account",
        )

    def _spawn(self, component: str, *arguments: str) -> None:
        self._components.start(component, str(path_of(component)), *arguments)

    def _answers(self, path: str) -> bool:
        context = ssl.create_default_context(cafile=str(self._directory.pki / "ca.crt"))
        token = admin_token(self._directory)
        request = urllib.request.Request(self.server + path, headers={"Authorization": f"Bearer {token}"})  # noqa: S310 - our own https URL
        direct = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        try:
            with direct.open(request, timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def admin_token(directory: ClusterDir) -> str:
    """The bearer token of the administrator of a cluster."""
    for line in (directory.pki / "tokens.csv").read_text().splitlines():
        token, _, identity, _ = line.split(",")
        if identity == "admin":
            return token
    raise HarnessError(f"{directory.pki / 'tokens.csv'} has no line for admin; take the cluster down and start anew.")
