"""A node that runs pods: containerd with runc and a CNI bridge, kubelet, kube-proxy."""

import json
from pathlib import Path
from typing import Any

import yaml

from harness import hostchanges, network, pki, store
from harness.access import ClusterAccess
from harness.binaries import path_of
from harness.components import Components
from harness.images import PAUSE_IMAGE
from harness.processes import run
from harness.reading import NotThereError
from harness.state import ClusterDir

NODE_NAME = pki.NODE_NAME


class Node:
    """The node of one cluster."""

    def __init__(self, directory: ClusterDir, components: Components, access: ClusterAccess) -> None:
        self._directory = directory
        self._components = components
        self._access = access

    @property
    def _containerd(self) -> Path:
        return self._directory.path / "containerd"

    @property
    def _socket(self) -> Path:
        return self._containerd / "containerd.sock"

    @property
    def host_dir(self) -> Path:
        """A folder of this machine for tests to share with pods by hostPath."""
        return self._directory.path / "shared"

    def start(self, pause_archive: Path) -> None:
        """Start everything and wait until the node is Ready.

        The machine must have been claimed (`hostchanges.claim`).

        Raises:
            HarnessError: A component did not come up; the message has the end of its log.
        """
        hostchanges.prepare()
        self.host_dir.mkdir(exist_ok=True)
        self._start_containerd()
        if not self.has_image(PAUSE_IMAGE):
            self.import_image(pause_archive)
        healthz, kubelet, proxy_healthz, proxy_metrics = network.free_ports(4)
        self._start_kubelet(kubelet, healthz)
        self._start_kube_proxy(proxy_healthz, proxy_metrics)
        self._components.wait("kubelet", self._is_ready, f"node {NODE_NAME} to be Ready")

    def ctr(self, *arguments: str) -> str:
        """Run containerd's `ctr` on this node's images and containers and return what it printed."""
        return run(["ctr", "-a", str(self._socket), "-n", "k8s.io", *arguments], f"ctr {' '.join(arguments)}")

    def has_image(self, image: str) -> bool:
        """Whether an image is available to pods."""
        return image in self.ctr("images", "ls", "-q").split()

    def import_image(self, archive: Path) -> None:
        """Make the image in a docker-archive available to pods."""
        self.ctr("images", "import", str(archive))

    def _start_containerd(self) -> None:
        self._containerd.mkdir(parents=True, exist_ok=True)
        store.fill(self._containerd / "root")
        networks = self._directory.path / "cni" / "net.d"
        networks.mkdir(parents=True, exist_ok=True)
        # Pods reach each other, this machine and Services; nothing outside.
        conflist: dict[str, Any] = {
            "cniVersion": "0.4.0",
            "name": "sockethealth-test",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": network.BRIDGE,
                    "isGateway": True,
                    "ipMasq": False,
                    "hairpinMode": True,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": str(self._directory.path / "cni" / "lib"),
                        "ranges": [[{"subnet": network.POD_CIDR}]],
                        "routes": [{"dst": network.SERVICE_CIDR}, {"dst": f"{network.API_ADDRESS}/32"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }
        (networks / "10-sockethealth-test.conflist").write_text(json.dumps(conflist, indent=1))
        # JSON strings, numbers and booleans are TOML ones too. restrict_oom_score_adj: without it every
        # sandbox fails where root lacks CAP_SYS_RESOURCE.
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        runc = f"{cri}.containerd.runtimes.runc"
        sections: dict[str, dict[str, object]] = {
            "": {
                "version": 2,
                "root": str(self._containerd / "root"),
                "state": str(self._containerd / "state"),
            },
            "grpc": {"address": str(self._socket)},
            'plugins."io.containerd.internal.v1.opt"': {"path": str(self._containerd / "opt")},
            cri: {
                "sandbox_image": PAUSE_IMAGE,
                "restrict_oom_score_adj": True,
                "disable_apparmor": True,
                "disable_hugetlb_controller": True,
                "tolerate_missing_hugetlb_controller": True,
                "netns_mounts_under_state_dir": True,
                "stream_server_address": "127.0.0.1",
            },
            f"{cri}.cni": {"bin_dir": "/usr/lib/cni", "conf_dir": str(networks)},
            runc: {"runtime_type": "io.containerd.runc.v2"},
            f"{runc}.options": {"SystemdCgroup": False, "Root": str(self._containerd / "runc")},
        }
        lines: list[str] = []
        for section, values in sections.items():
            lines += [f"[{section}]"] if section else []
            lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        config = self._containerd / "config.toml"
        config.write_text("\n".join(lines) + "\n")
        self._components.start("containerd", "/usr/bin/containerd", "--config", str(config))
        self._components.wait("containerd", self._socket.is_socket, "containerd to listen")

    def _start_kubelet(self, port: int, healthz_port: int) -> None:
        state = self._directory.path
        settings = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": network.API_ADDRESS,
            "port": port,
            "healthzPort": healthz_port,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self._directory.pki / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "containerRuntimeEndpoint": f"unix://{self._socket}",
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "oomScoreAdj": 0,
            "maxOpenFiles": 20000,
            "makeIPTablesUtilChains": False,
            "resolvConf": "",
            # A container that ends twice waits 10 s, and longer each time, for its next start.
            "featureGates": {"KubeletCrashLoopBackOffMax": True},
            "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
            "evictionHard": {"memory.available": "100Mi"},
            "imageGCHighThresholdPercent": 100,
            "podLogsDir": str(state / "pod-logs"),
            "volumePluginDir": str(state / "volume-plugins"),
            "allowedUnsafeSysctls": ["net.ipv4.tcp_*", "net.ipv4.ip_local_*", "net.core.somaxconn"],
        }
        config = state / "kubelet.yaml"
        config.write_text(yaml.safe_dump(settings))
        self._components.start(
            "kubelet",
            str(path_of("kubelet")),
            f"--config={config}",
            f"--kubeconfig={pki.kubeconfig_of(self._directory, 'kubelet')}",
            f"--hostname-override={NODE_NAME}",
            f"--node-ip={network.API_ADDRESS}",
            f"--root-dir={state / 'kubelet'}",
            f"--cert-dir={state / 'kubelet-pki'}",
        )

    def _start_kube_proxy(self, healthz_port: int, metrics_port: int) -> None:
        settings = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(pki.kubeconfig_of(self._directory, "kube-proxy"))},
            "clusterCIDR": network.POD_CIDR,
            "hostnameOverride": NODE_NAME,
            "healthzBindAddress": f"127.0.0.1:{healthz_port}",
            "metricsBindAddress": f"127.0.0.1:{metrics_port}",
            "mode": "iptables",
            "iptables": {"localhostNodePorts": False},
            # Zero leaves this machine's conntrack settings alone.
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
            },
        }
        config = self._directory.path / "kube-proxy.yaml"
        config.write_text(yaml.safe_dump(settings))
        self._components.start("kube-proxy", str(path_of("kube-proxy")), f"--config={config}")

    def _is_ready(self) -> bool:
        try:
            found = self._access.get("node", NODE_NAME)
        except NotThereError:
            return False
        conditions = found["status"].get("conditions", [])
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
