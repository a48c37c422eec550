"""Using a cluster through its kubeconfig: kubectl, Python clients, tokens."""

import json
import os
import subprocess
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client as kubernetes_client
from kubernetes import config as kubernetes_config
from kubernetes.dynamic import DynamicClient

from harness.binaries import client_path
from harness.errors import HarnessError
from harness.reading import Query, Reading
from harness.writing import Writing


def _environment() -> dict[str, str]:
    """Ours without the variables by which another cluster could slip in.

    Programs that live for a tenth of a second collect no garbage: a third of a kubectl's CPU time.
    """
    ours = {key: value for key, value in os.environ.items() if key not in {"KUBECONFIG", "HELM_KUBECONTEXT"}}
    return {**ours, "GOGC": "800"}


class ClusterAccess:
    """A cluster as its administrator sees it.

    Attributes:
        kubeconfig: The file all of the below use.
    """

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self._clients: list[Any] = []

    @cached_property
    def _user_and_cluster(self) -> tuple[dict[str, Any], dict[str, Any]]:
        document = yaml.safe_load(self.kubeconfig.read_text())
        contexts = {entry["name"]: entry["context"] for entry in document["contexts"]}
        context = contexts[document["current-context"]]
        users = {entry["name"]: entry["user"] for entry in document["users"]}
        clusters = {entry["name"]: entry["cluster"] for entry in document["clusters"]}
        return users[context["user"]], clusters[context["cluster"]]

    @property
    def server(self) -> str:
        """The URL of the API server."""
        return str(self._user_and_cluster[1]["server"])

    @property
    def ca_file(self) -> Path:
        """The certificate authority of the API server.

        Raises:
            HarnessError: The kubeconfig holds it inline or not at all.
        """
        file = self._user_and_cluster[1].get("certificate-authority")
        if file is None:
            raise HarnessError(f"{self.kubeconfig} names no certificate-authority file, which this test needs.")
        return Path(file)

    @property
    def admin_token(self) -> str:
        """The administrator's bearer token.

        Raises:
            HarnessError: The kubeconfig authenticates in another way.
        """
        token = self._user_and_cluster[0].get("token")
        if token is None:
            raise HarnessError(f"{self.kubeconfig} has no token for its user, which this test needs.")
        return str(token)

    def kubectl(
        self,
        *arguments: str,
        input: str | None = None,  # noqa: A002 - named as in subprocess.run
        check: bool = True,
        timeout: float = 60,
    ) -> "subprocess.CompletedProcess[str]":
        """Run kubectl on this cluster.

        Args:
            arguments: What follows `kubectl`.
            input: Standard input, for `-f -`.
            check: Whether a failure raises.
            timeout: Seconds after which kubectl is ended.

        Raises:
            HarnessError: kubectl failed and `check` is set; the message has what it printed.
        """
        argv = [str(client_path("kubectl")), f"--kubeconfig={self.kubeconfig}", *arguments]
        return self._run("kubectl", argv, check=check, timeout=timeout, stdin=input)

    def _run(
        self, program: str, argv: list[str], *, check: bool, timeout: float, stdin: str | None = None
    ) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, check=False, timeout=timeout, env=_environment()
        )
        if check and done.returncode:
            said = f"{done.stderr}{done.stdout}"
            raise HarnessError(f"{program} {' '.join(argv[2:])} exited with {done.returncode}:\n{said}")
        return done

    def exec(
        self,
        namespace: str,
        pod: str,
        *command: str,
        container: str = "",
        input: str | None = None,  # noqa: A002 - as in kubectl
    ) -> str:
        """Run a command in a pod and return its standard output.

        Raises:
            HarnessError: The command failed.
        """
        where = ["-n", namespace, pod, *([f"--container={container}"] if container else [])]
        stdin = ["-i"] if input is not None else []
        return self.kubectl("exec", *stdin, *where, "--", *command, input=input).stdout

    def helm(self, *arguments: str, check: bool = True, timeout: float = 180) -> "subprocess.CompletedProcess[str]":
        """Run Helm on this cluster.

        Raises:
            HarnessError: It failed and `check` is set; the message has what it printed.
        """
        argv = [str(client_path("helm")), f"--kubeconfig={self.kubeconfig}", *arguments]
        return self._run("helm", argv, check=check, timeout=timeout)

    def get(self, *arguments: str) -> dict[str, Any]:
        """`kubectl get ... -o json`, decoded; read directly where it names one kind, and by kubectl otherwise.

        Raises:
            NotThereError: There is no such object or kind.
            HarnessError: It was refused, or kubectl failed.
        """
        query = Query.of(*arguments)
        if query is not None:
            return self._reading.get(query)
        document: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "-o", "json").stdout)
        return document

    def apply(
        self, *documents: Mapping[str, Any], namespace: str = "", manager: str = "tests", subresource: str = ""
    ) -> None:
        """Server-side apply of objects, over what others have set; in `namespace`, or `default`, if they name none.

        Args:
            documents: the objects.
            namespace: where those are that name none.
            manager: the field manager.
            subresource: such as `status`.

        Raises:
            HarnessError: It was refused; the message has the API server's.
        """
        for document in documents:
            self._writing.apply(document, namespace, manager, subresource)

    def add(self, *documents: Mapping[str, Any], namespace: str = "", dry_run: bool = False) -> list[dict[str, Any]]:
        """Make objects that are not there yet, as the API server has them then; with `dry_run` none is made.

        Raises:
            HarnessError: One was refused; the message has the API server's.
        """
        return [self._writing.create(document, namespace, dry_run=dry_run) for document in documents]

    def merge(
        self, kind: str, name: str, patch: Mapping[str, Any], *, namespace: str = "default", subresource: str = ""
    ) -> None:
        """Change an object by a JSON merge patch.

        Raises:
            NotThereError: There is no such object.
            HarnessError: It was refused; the message has the API server's.
        """
        self._writing.merge(Query(kind, name, namespace), patch, subresource)

    def delete(self, kind: str, *names: str, namespace: str = "default", wait: bool = False) -> None:
        """Delete objects of a kind, those of them that are there; with `wait` until they are gone.

        Raises:
            HarnessError: It was refused; the message has the API server's.
        """
        for name in names:
            self._writing.delete(Query(kind, name, namespace), wait=wait)

    @cached_property
    def _reading(self) -> Reading:
        return Reading(self.client)

    @cached_property
    def _writing(self) -> Writing:
        return Writing(self._reading)

    def client(self) -> kubernetes_client.ApiClient:
        """A fresh client of the Python library, closed with the cluster; proxies are ignored."""
        settings = kubernetes_client.Configuration()
        kubernetes_config.load_kube_config(  # type: ignore[no-untyped-call] # the library has no annotations
            config_file=str(self.kubeconfig), client_configuration=settings
        )
        settings.proxy = None
        made = kubernetes_client.ApiClient(settings)
        self._clients.append(made)
        return made

    @cached_property
    def core(self) -> kubernetes_client.CoreV1Api:
        """A client of the core API; much cheaper than a kubectl for what every test does."""
        return kubernetes_client.CoreV1Api(self.client())

    @cached_property
    def dynamic(self) -> DynamicClient:
        """A client that discovers resources, custom ones included."""
        return DynamicClient(self.client())  # type: ignore[no-untyped-call] # as above

    def token_for(self, service_account: str, namespace: str, *arguments: str) -> str:
        """A bearer token of a service account, as from `kubectl create token` with `arguments` added."""
        if not arguments:
            request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
            account = self._reading.kind("serviceaccount").url(namespace, service_account, "token")
            return str(self._reading.ask(account, method="POST", body=request)["status"]["token"])
        return self.kubectl("create", "token", service_account, "-n", namespace, *arguments).stdout.strip()

    def close_clients(self) -> None:
        """Close the connections of all clients made here."""
        while self._clients:
            made = self._clients.pop()
            made.rest_client.pool_manager.clear()
            made.close()
