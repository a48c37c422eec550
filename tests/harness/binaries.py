"""The programs a cluster is made of: where they are found, and how they are built when they are not.

KUBEBUILDER_ASSETS, a directory as controller-runtime's setup-envtest makes it, is asked first. Everything
else is built from Go modules into the cache, in a folder named after the version, so that a changed pin in
gotools/go.mod builds anew.

SOCKETHEALTH_TEST_KUBERNETES names another version for the control plane, such as v1.31.0. Its modules are what its
own go.mod asks for: Go takes the lowest versions that satisfy it, so they are the same at every build, and their
checksums are those of Go's checksum database.
"""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError
from harness.processes import run
from harness.progress import step
from harness.state import cache_dir

_GO_MODULE = Path(__file__).parent / "gotools"
_HELM_VERSION = "v3.21.4"
_HELM = "helm.sh/helm/v3/cmd/helm"
_PROMETHEUS_OPERATOR = ("github.com/prometheus-operator/prometheus-operator", "v0.85.0")
_COMPONENT_VERSION = "k8s.io/component-base/version"

KUBERNETES = "SOCKETHEALTH_TEST_KUBERNETES"

CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
NODE = ("kubelet", "kube-proxy", "helm", "pause")
_OF_ANY_VERSION = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")


def pinned(module: str) -> str:
    """The version of `module` that gotools/go.mod requires."""
    found = re.search(rf"^\s+{re.escape(module)} (\S+)", (_GO_MODULE / "go.mod").read_text(), re.MULTILINE)
    if not found:
        raise HarnessError(f"{_GO_MODULE / 'go.mod'} requires no {module}; the harness takes its version from there.")
    return found[1]


def kubernetes_version() -> str:
    """The version of the control plane: SOCKETHEALTH_TEST_KUBERNETES, or else the pinned one.

    Raises:
        HarnessError: The variable holds no version.
    """
    named = os.environ.get(KUBERNETES) or pinned("k8s.io/kubernetes")
    if not re.fullmatch(r"v1\.\d+\.\d+", named):
        raise HarnessError(f"{KUBERNETES} is {named!r}, which is no version; write it as in v1.34.4.")
    return named


@dataclass(frozen=True)
class _Build:
    """How one program is built.

    Attributes:
        folder: The folder of its version in the cache.
        arguments: What follows `go`.
        takes: How long that takes, in words.
        kubernetes: The version whose modules it is built from, where it is not the pinned one.
    """

    folder: str
    arguments: tuple[str, ...]
    takes: str
    kubernetes: str = ""


def _build_of(name: str) -> _Build:
    if name == "helm":
        return _Build(f"helm-{_HELM_VERSION}", ("install", "-trimpath", f"{_HELM}@{_HELM_VERSION}"), "a minute")
    if name == "etcd":
        version = pinned("go.etcd.io/etcd/server/v3")
        return _Build(
            f"etcd-{version}",
            ("build", "-trimpath", "-ldflags=-s -w", "go.etcd.io/etcd/server/v3"),
            "half a minute",
        )
    if name == "pause":
        return _Build("pause-1", ("build", "-trimpath", "-ldflags=-s -w", "./pause"), "a few seconds")
    version = kubernetes_version() if name in _OF_ANY_VERSION else pinned("k8s.io/kubernetes")
    major, minor = version.removeprefix("v").split(".")[:2]
    # Without these the server calls itself v0.0.0-master+$Format:%H$, which clients cannot parse.
    stamps = {
        "gitVersion": version,
        "gitMajor": major,
        "gitMinor": minor,
        "gitCommit": version,
        "gitTreeState": "clean",
    }
    flags = " ".join(f"-X {_COMPONENT_VERSION}.{key}={value}" for key, value in stamps.items())
    return _Build(
        f"kubernetes-{version}",
        ("build", "-trimpath", f"-ldflags=-s -w {flags}", f"k8s.io/kubernetes/cmd/{name}"),
        "about 3 minutes the first time" if name == "kube-apiserver" else "half a minute",
        "" if version == pinned("k8s.io/kubernetes") else version,
    )


def find(name: str) -> Path | None:
    """Where a program is, or None if it has to be built."""
    build = _build_of(name)
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    # They are of one version only, and not of the one asked for.
    candidates = [Path(assets) / name] if assets and not build.kubernetes else []
    candidates.append(cache_dir() / "bin" / build.folder / name)
    return next((path for path in candidates if os.access(path, os.X_OK)), None)


def path_of(name: str) -> Path:
    """Where a program is.

    Raises:
        HarnessError: It has not been built; `ensure` does that.
    """
    found = find(name)
    if found is None:
        raise HarnessError(f"{name} has not been built yet. Build it: python -m harness build")
    return found


def client_path(name: str) -> Path:
    """Where kubectl or helm is: ours, or else the one on PATH, which is enough for an existing cluster.

    Raises:
        HarnessError: There is neither.
    """
    found = find(name) or shutil.which(name)
    if found is None:
        raise HarnessError(f"{name} is missing. Put it on PATH, or build it: python -m harness build")
    return Path(found)


def ensure(names: Iterable[str]) -> None:
    """Build those of `names` that are missing; a second run that wants the same waits for the first.

    Raises:
        HarnessError: Go is missing, or a build failed.
    """
    if all(find(name) for name in names):
        return
    if not shutil.which("go"):
        raise HarnessError(
            f"{', '.join(n for n in names if not find(n))} must be built and Go is not installed. Install Go"
            " (https://go.dev/doc/install), or point KUBEBUILDER_ASSETS to a directory that has the programs."
        )
    folder = cache_dir() / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in names:
            if not find(name):
                _make(name, folder)


def _make(name: str, folder: Path) -> None:
    build = _build_of(name)
    target = folder / build.folder / name
    scratch = folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    target.parent.mkdir(exist_ok=True)
    command, *rest = build.arguments
    output = ["-o", str(scratch / name)] if command == "build" else []
    with step(f"building {build.folder}: {name}", takes=build.takes):
        module = _module_of(build.kubernetes, folder / build.folder) if build.kubernetes else _GO_MODULE
        update = ["-mod=mod"] if build.kubernetes else []
        run(
            ["go", "-C", str(module), command, *update, *output, *rest],
            f"Building {name} from Go modules",
            env={**os.environ, "GOBIN": str(scratch)},
        )
        (scratch / name).rename(target)


def _module_of(version: str, folder: Path) -> Path:
    """A Go module that requires one version of Kubernetes, with the staging modules published beside it."""
    module = folder / "module"
    module.mkdir(exist_ok=True)
    where = ["go", "-C", str(module)]
    done = run(
        [*where, "mod", "download", "-json", f"k8s.io/kubernetes@{version}"], f"Downloading Kubernetes {version}"
    )
    own = json.loads(run([*where, "mod", "edit", "-json", json.loads(done)["GoMod"]], "Reading its go.mod"))
    staging = [one["Old"]["Path"] for one in own["Replace"] if one["New"]["Path"].startswith("./staging/")]
    lines = [
        "module sockethealth.io/tests/kubernetes",
        f"go {own['Go']}",
        *(f"godebug {setting['Key']}={setting['Value']}" for setting in own.get("Godebug") or []),
        f"require k8s.io/kubernetes {version}",
        *(f"replace {path} => {path} v0{version.removeprefix('v1')}" for path in staging),
    ]
    (module / "go.mod").write_text("\n".join(lines) + "\n")
    return module


def _download(module: str, version: str, beside: Path) -> dict[str, str]:
    """Where Go keeps a module, as `go mod download -json` says it."""
    argv = ["go", "-C", str(beside), "mod", "download", "-json", f"{module}@{version}"]
    found: dict[str, str] = json.loads(run(argv, f"Downloading {module} {version}"))
    return found


def prometheus_operator_definitions() -> Path:
    """A folder with the CustomResourceDefinitions of the Prometheus Operator, from its Go module.

    Raises:
        HarnessError: Go is missing, or the module cannot be had.
    """
    folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    return Path(_download(*_PROMETHEUS_OPERATOR, folder)["Dir"]) / "example" / "prometheus-operator-crd"
