"""The project's image: small, nobody's root, and in no need of a shell."""

import json
import os
import shutil
import subprocess
import tarfile
import zlib

import pytest

from harness import images

pytestmark = pytest.mark.node

MOST_COMPRESSED_BYTES = 40_000_000
MOST_COMPRESSED_BYTES_OF_OURS = 2_000_000
BLOCK = 1 << 20
PROGRAMS = (
    "sockethealth",
    "kubectl-sockethealth",
    "sockethealth-agent",
    "sockethealth-operator",
    "sockethealth-sysctl-writer",
)
SHELLS = ("sh", "bash", "dash")


@pytest.fixture(scope="module")
def archive():
    _, path = images.project_archive()
    with tarfile.open(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def description(archive):
    """The image's configuration and, base first, the names of its layers in the archive."""
    (manifest,) = json.load(archive.extractfile("manifest.json"))
    return json.load(archive.extractfile(manifest["Config"])), manifest["Layers"]


def blocks_of(archive, member):
    stream = archive.extractfile(member)
    while block := stream.read(BLOCK):
        yield block


def compressed_bytes(archive, member):
    # The fastest level is the worst: a registry is sent less.
    pack = zlib.compressobj(level=1, wbits=31)
    return sum(len(pack.compress(block)) for block in blocks_of(archive, member)) + len(pack.flush())


def test_what_is_added_to_the_base_is_less_than_40_mb_compressed(archive, description):
    _, (base, *added) = description
    assert len(added) == 2, "the base is one layer; the Dockerfile adds one of dependencies and one of our own"
    dependencies, own = (compressed_bytes(archive, layer) for layer in added)
    assert dependencies + own < MOST_COMPRESSED_BYTES
    assert own < MOST_COMPRESSED_BYTES_OF_OURS
    assert archive.getmember(base).size > 0


def test_it_runs_as_nobody_and_names_no_shell(description):
    configuration, _ = description
    user, _, group = configuration["config"]["User"].partition(":")
    assert (int(user), int(group)) == (65532, 65532)
    command = [*(configuration["config"].get("Entrypoint") or []), *configuration["config"]["Cmd"]]
    assert command == ["sockethealth", "--help"]


def test_nothing_in_it_tells_when_it_was_built(archive, description):
    _, layers = description
    for name in layers[1:]:
        with tarfile.open(fileobj=archive.extractfile(name)) as layer:
            assert {member.mtime for member in layer} == {0}


@pytest.fixture(scope="module")
def root(archive, description, tmp_path_factory):
    """The image's files, without any shell."""
    folder = tmp_path_factory.mktemp("root")
    folder.chmod(0o755)
    _, layers = description
    for name in layers:
        unpack = subprocess.Popen(["tar", "--extract", "-C", folder], stdin=subprocess.PIPE)
        for block in blocks_of(archive, name):
            unpack.stdin.write(block)
        unpack.stdin.close()
        assert unpack.wait() == 0
    for shell in SHELLS:
        (folder / "usr" / "bin" / shell).unlink(missing_ok=True)
        assert not os.path.lexists(folder / "bin" / shell)
    yield folder
    subprocess.run(["rm", "-rf", folder], check=True)


@pytest.fixture(scope="module")
def within(root, description):
    """Runs a program of the image as its user, with its files as the root and its environment."""
    configuration, _ = description
    environment = dict(pair.split("=", 1) for pair in configuration["config"]["Env"])
    chroot = shutil.which("chroot", path="/usr/sbin:/sbin:/usr/bin")

    def within(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [
                *(chroot, f"--userspec={configuration['config']['User']}", str(root)),
                *(f"/opt/sockethealth/bin/{program}", *arguments),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=environment,
        )

    return within


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_starts_without_a_shell_and_without_writing(within, program):
    done = within(program, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: ")


def test_our_bytecode_is_used_as_it_is_and_the_generated_classes_of_the_client_are_source(root, within):
    (packages,) = (root / "opt/sockethealth/lib").glob("python3.*/site-packages")
    (compiled,) = (packages / "sockethealth_operator/__pycache__").glob("main.*.pyc")
    # PEP 552: flags 1 say that it is of a hash, and not 2 that the source is to be looked at.
    assert compiled.read_bytes()[4:8] == b"\1\0\0\0"
    models = packages / "kubernetes/aio/client/models"
    assert (models / "v1_pod.py").is_file()
    assert not (models / "__pycache__").exists()
    script = "from kubernetes.client import V1Pod; print(V1Pod.__module__)"
    assert within("python3", "-c", script).stdout == "kubernetes.client.models.v1_pod\n"
