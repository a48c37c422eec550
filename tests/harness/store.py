"""A containerd store with the images in it already, for nodes to begin with.

To unpack a third of a gigabyte costs ten seconds of a processor for each node; a tree of hard links costs half of one.
Containerd writes a blob or a file of a layer once, and what a container changes goes elsewhere (overlayfs), so links
are as good as copies; only its databases are written in place, and copied.
"""

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from harness import images
from harness.processes import run
from harness.progress import step
from harness.waiting import until

_KEPT: Final = 2  # of 0.7 GB each
_START_SECONDS: Final = 30
_PREFIX: Final = "store-"
_UNFINISHED: Final = "unfinished-store-"


def prepare(archives: Mapping[str, Path]) -> None:
    """Make a store of these images, named with their archives, unless there is one.

    Raises:
        HarnessError: Containerd did not start, or refuses an archive.
    """
    with images.locked() as folder:
        name = _PREFIX + hashlib.sha256("\n".join(sorted(archives)).encode()).hexdigest()[:12]
        if not (folder / name).exists():
            for unfinished in folder.glob(f"{_UNFINISHED}*"):
                shutil.rmtree(unfinished)
            scratch = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder))
            with step(f"unpacking {', '.join(archives)}"):
                _import(archives, scratch)
            (scratch / "root").rename(folder / name)
            shutil.rmtree(scratch)
        (folder / name).touch()
        for old in _by_age(folder)[:-_KEPT]:
            shutil.rmtree(old)


def fill(root: Path) -> None:
    """Have a containerd that is yet to start begin with the store prepared last, if one is on the same filesystem.

    Args:
        root: its root folder, which is not there yet.
    """
    with images.locked() as folder:
        stores = _by_age(folder)
        if not stores or stores[-1].stat().st_dev != root.parent.stat().st_dev:
            return
        run(["cp", "--archive", "--link", str(stores[-1]), str(root)], "Linking the images' files")
        for database in root.rglob("*.db"):
            original = stores[-1] / database.relative_to(root)
            database.unlink()
            shutil.copy2(original, database)


def _by_age(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_PREFIX}*"), key=lambda store: store.stat().st_mtime)


def _import(archives: Mapping[str, Path], scratch: Path) -> None:
    socket, config, log = scratch / "containerd.sock", scratch / "config.toml", scratch / "log"
    config.write_text(
        f'version = 2\nroot = "{scratch / "root"}"\nstate = "{scratch / "state"}"\n'
        'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f'[grpc]\naddress = "{socket}"\n'
        f'[plugins."io.containerd.internal.v1.opt"]\npath = "{scratch / "opt"}"\n'
    )
    # Should this run be killed, it ends too, and what it has mounted goes with its namespace.
    alone = ["setpriv", "--pdeathsig", "KILL", "--", "unshare", "--mount", "--propagation", "private"]
    with log.open("wb") as out:
        containerd = subprocess.Popen(
            [*alone, "/usr/bin/containerd", "--config", str(config)], stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        until(socket.is_socket, "containerd to listen", seconds=_START_SECONDS, explain=log.read_text)
        for image, archive in archives.items():
            run(["ctr", "-a", str(socket), "-n", "k8s.io", "images", "import", str(archive)], f"Unpacking {image}")
    finally:
        containerd.terminate()
        containerd.wait()
