"""The pytest side: skips by marker, and the fixtures that hand out one cluster per session."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest
from kubernetes import client

from harness import binaries, images, packages, progress, requirements, store
from harness.cluster import ExistingCluster, OwnCluster, existing_kubeconfig
from harness.errors import HarnessError
from harness.state import ClusterDir, Owner, state_root
from harness.waiting import until


def skip_or_fail(sentence: str) -> None:
    """Skip the test for a missing part; where CI=true promises that everything is there, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{sentence} (CI=true turns this skip into a failure.)", pytrace=False)
    pytest.skip(sentence)


def _kinds_of(item: pytest.Item) -> list[str]:
    return [kind for kind in requirements.KINDS if item.get_closest_marker(kind)]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked kernel, api or node where the machine lacks what it needs."""
    for kind in _kinds_of(item):
        sentence = requirements.missing(kind)
        if sentence:
            skip_or_fail(sentence)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests that start a node of their own before the session's cluster gets one; there can be only one."""
    items.sort(key=lambda item: "no_node_yet" not in getattr(item, "fixturenames", ()))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Do what takes minutes before the first test starts, where no test's timeout counts it."""
    if session.config.option.collectonly:
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    capture = session.config.pluginmanager.get_plugin("capturemanager")

    def show(line: str) -> None:
        if reporter is None or capture is None:
            return
        with capture.global_and_fixture_disabled():
            reporter.ensure_newline()
            reporter.write_line(line)

    progress.report_through(show)
    kinds = {kind for item in session.items for kind in _kinds_of(item)}
    try:
        if existing_kubeconfig() or not kinds & {"api", "node"}:
            return
        if not requirements.missing("api"):
            binaries.ensure(binaries.CONTROL_PLANE)
        if "node" in kinds and not requirements.missing("node"):
            packages.ensure()
            binaries.ensure(binaries.NODE)
            _prepare_images()
    except HarnessError as error:
        pytest.exit(str(error), returncode=1)


def _prepare_images() -> None:
    """Build and unpack them ahead; that the project's own fails is for the tests that use it, which meet it again."""
    archives = dict([(images.PAUSE_IMAGE, images.pause_archive()), images.base_archive()])
    try:
        archives.update([images.project_archive()])
    except HarnessError as error:
        progress.say(str(error))
    store.prepare(archives)


@pytest.fixture(scope="session")
def control_plane() -> Iterator[OwnCluster | ExistingCluster]:
    """API server and controllers; the same cluster as `cluster_node` if that is used too."""
    kubeconfig = existing_kubeconfig()
    if kubeconfig:
        existing = ExistingCluster(kubeconfig)
        yield existing
        existing.close()
        return
    cluster = OwnCluster.create(f"run-{os.getpid()}", Owner.this_process())
    try:
        cluster.start_control_plane()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="session")
def cluster_node(control_plane: OwnCluster | ExistingCluster) -> OwnCluster | ExistingCluster:
    """The cluster of `control_plane`, with a node that runs pods."""
    if isinstance(control_plane, OwnCluster):
        control_plane.start_node()
    return control_plane


@pytest.fixture
def no_node_yet() -> None:
    """For a test that starts a node itself: puts it first, and says so should the session have one all the same."""
    own = ClusterDir(state_root() / f"run-{os.getpid()}")
    if own.node_record.exists():
        pytest.fail("This test starts a node of its own, and the session's cluster has one already.", pytrace=False)


@pytest.fixture
def namespace(control_plane: OwnCluster | ExistingCluster) -> Iterator[str]:
    """A fresh namespace of its own for one test.

    Of an existing cluster it is given up at the end. Our own goes as a whole, and to take a namespace away costs some
    ninety requests, two for each kind there is.
    """
    name = f"test-{secrets.token_hex(4)}"
    control_plane.core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=name)))
    # A controller makes it in its own time, and pods are refused in a namespace without it.
    until(lambda: _has_service_account(control_plane, name), f"the service account of {name}", seconds=60)
    yield name
    if isinstance(control_plane, ExistingCluster):
        with contextlib.suppress(client.ApiException):
            control_plane.core.delete_namespace(name)


def _has_service_account(cluster: OwnCluster | ExistingCluster, namespace: str) -> bool:
    try:
        cluster.core.read_namespaced_service_account("default", namespace)
    except client.ApiException as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return False
        raise
    return True


@pytest.fixture(scope="session")
def crds(control_plane: OwnCluster | ExistingCluster) -> Path:
    """The folder of the project's CRDs, applied and served."""
    folder = images.REPOSITORY / "crds"
    if not any(folder.glob("*.yaml")):
        skip_or_fail("crds/*.yaml is missing: generate it first (make generate).")
    control_plane.kubectl("apply", "--server-side", "-f", str(folder))
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(folder))
    return folder
