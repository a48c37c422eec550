"""The images pods run: a pause image, a Debian with Python, and the project's own from its Dockerfile.

No registry is involved. The Dockerfile's base is replaced, by its BASE argument, with a Debian made here
from the machine's own package sources.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import binaries
from harness.errors import HarnessError
from harness.processes import run
from harness.progress import step
from harness.state import cache_dir

REPOSITORY = Path(__file__).parents[2]
PAUSE_IMAGE = "localhost/sockethealth-test-pause:1"
_BASE_NAME = "localhost/sockethealth-test-base"
_PROJECT_NAME = "docker.io/library/sockethealth"
_DEPENDENCIES = "localhost/sockethealth-test-dependencies:1"  # the name keeps its layers from being forgotten
_BASE_PACKAGES = ("ca-certificates", "netbase", "python-is-python3", "python3", "python3-pip", "python3-venv")
_CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_BLOB_CACHE = Path("/var/lib/containers")  # root's buildah keeps a cache of digests there, whatever its settings
_INPUTS = (
    ".dockerignore",
    "Dockerfile",
    "LICENSE",
    "README.md",
    "cli",
    "core",
    "nodeagent",
    "operator",
    "pyproject.toml",
    "requirements/build.txt",
    "requirements/runtime.txt",
)
_TIMESTAMP_SECONDS = 0
_PIP_CACHE_IN_BUILD = "/var/cache/pip"
_ARCHIVES_KEPT = 2
_INTERMEDIATE_IMAGES_KEPT = 60  # about ten builds of changed sources, 3 GB


def _folder() -> Path:
    return cache_dir() / "images"


@contextmanager
def locked() -> Iterator[Path]:
    """The folder of images, for one at a time; a second run that wants the same finds it made."""
    _folder().mkdir(parents=True, exist_ok=True)
    with (_folder() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield _folder()


def _storage_driver() -> str:
    """overlay, except where the cache itself is on an overlay, which cannot be stacked on itself."""
    return "vfs" if run(["stat", "-f", "-c", "%T", str(_folder())], "stat").strip() == "overlayfs" else "overlay"


def _environment() -> dict[str, str]:
    """Buildah's environment: storage of its own, kept out of the machine's and without a lasting mount."""
    settings = _folder() / "storage.conf"
    settings.write_text(
        f"[storage]\ndriver = {_storage_driver()!r}\ngraphroot = '{_folder() / 'storage'}'\n"
        f"runroot = '{_folder() / 'run'}'\n[storage.options.overlay]\nskip_mount_home = 'true'\n"
    )
    (_folder() / "cni").mkdir(exist_ok=True)
    engine = _folder() / "containers.conf"
    engine.write_text(f"[network]\nnetwork_config_dir = '{_folder() / 'cni'}'\n")
    policy = _folder() / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    return {
        **os.environ,
        "BUILDAH_ISOLATION": "chroot",
        "CONTAINERS_CONF": str(engine),
        "CONTAINERS_STORAGE_CONF": str(settings),
    }


def _buildah(command: str, *arguments: str, what: str) -> str:
    environment = _environment()
    policy = [f"--signature-policy={_folder() / 'policy.json'}"] if command in {"bud", "push"} else []
    had_cache = _BLOB_CACHE.exists()
    try:
        return run(["buildah", command, *policy, *arguments], what, env=environment)
    finally:
        if not had_cache and _BLOB_CACHE.exists():
            shutil.rmtree(_BLOB_CACHE)


def _exists(image: str) -> bool:
    names = _buildah("images", "--format", "{{.Name}}:{{.Tag}}", what="Listing images")
    return image in names.split()


def _archive(image: str) -> Path:
    """The image as a docker-archive, which `ctr images import` reads."""
    file = _folder() / f"{image.rpartition('/')[2].replace(':', '-')}.tar"
    if not file.exists():
        scratch = file.with_suffix(".new")
        scratch.unlink(missing_ok=True)
        _buildah("push", image, f"docker-archive:{scratch}:{image}", what=f"Writing {image} to a file")
        scratch.rename(file)
    return file


def pause_archive() -> Path:
    """The image every pod's sandbox runs.

    Raises:
        HarnessError: It could not be built.
    """
    with locked():
        if not _exists(PAUSE_IMAGE):
            context = _folder() / "pause"
            context.mkdir(exist_ok=True)
            shutil.copy2(binaries.path_of("pause"), context / "pause")
            recipe = 'FROM scratch\nCOPY pause /pause\nUSER 65535:65535\nENTRYPOINT ["/pause"]\n'
            (context / "Dockerfile").write_text(recipe)
            _buildah("bud", "-t", PAUSE_IMAGE, str(context), what="Building the pause image")
        return _archive(PAUSE_IMAGE)


def _debian_sources() -> tuple[str, Path]:
    """This machine's Debian release and the file that names its package sources.

    Raises:
        HarnessError: There is no such file.
    """
    release = run(["sh", "-c", '. /etc/os-release; echo "$VERSION_CODENAME"'], "Reading /etc/os-release").strip()
    for file in map(Path, ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list")):
        if file.is_file() and file.stat().st_size:
            return release, file
    raise HarnessError(
        "Debian's package sources are in neither /etc/apt/sources.list.d/debian.sources nor /etc/apt/sources.list;"
        " the base image is made from them."
    )


def _ensure_base() -> str:
    release, sources = _debian_sources()
    inputs = f"{release}\n{sources.read_text()}\n{_BASE_PACKAGES}\n{_CA_BUNDLE.read_text()}"
    image = f"{_BASE_NAME}:{hashlib.sha256(inputs.encode()).hexdigest()[:12]}"
    if _exists(image):
        return image
    context = _folder() / "base"
    shutil.rmtree(context, ignore_errors=True)
    context.mkdir()
    slim = [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "locale", "man")]
    with step(f"making a base image from Debian {release}", takes="half a minute"):
        run(
            [
                "mmdebstrap",
                "--mode=root",
                "--variant=minbase",
                "--quiet",
                f"--include={','.join(_BASE_PACKAGES)}",
                *slim,
                '--aptopt=Acquire::Check-Valid-Until "false"',
                f"--customize-hook=copy-in {_CA_BUNDLE} {_CA_BUNDLE.parent}",
                '--customize-hook=touch "$1/etc/pip.conf"',
                release,
                str(context / "root.tar"),
                str(sources),
            ],
            "Making the base image with mmdebstrap",
        )
        recipe = "FROM scratch\nADD root.tar /\nENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
        (context / "Dockerfile").write_text(recipe + 'CMD ["python3"]\n')
        _buildah("bud", "-t", image, str(context), what="Importing the base image")
    shutil.rmtree(context)
    return image


def base_archive() -> tuple[str, Path]:
    """A Debian with Python 3, for workloads of tests: its image reference and the archive.

    Raises:
        HarnessError: It could not be built.
    """
    with locked():
        image = _ensure_base()
        return image, _archive(image)


def _files_of(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts]


def _content_hash(base: str) -> str:
    digest = hashlib.sha256(base.encode())
    for name in _INPUTS:
        for file in sorted(_files_of(REPOSITORY / name)):
            content = file.read_bytes()
            digest.update(f"\0{file.relative_to(REPOSITORY)}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()[:12]


def _pip_mounts() -> list[str]:
    """Volumes that let pip in the build use this machine's index, wheels and certificates; none stays in the image."""
    settings = {
        "cache-dir": _PIP_CACHE_IN_BUILD,
        "cert": str(_CA_BUNDLE),
        "index-url": os.environ.get("PIP_INDEX_URL"),
        "extra-index-url": os.environ.get("PIP_EXTRA_INDEX_URL"),
        "find-links": os.environ.get("PIP_FIND_LINKS"),
        "timeout": os.environ.get("PIP_DEFAULT_TIMEOUT"),
        "disable-pip-version-check": "true",
        "root-user-action": "ignore",
    }
    config = _folder() / "pip.conf"
    config.touch(mode=0o600)
    config.write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items() if value))
    cache = _folder() / "pip-cache"
    cache.mkdir(exist_ok=True)
    volumes = [f"{config}:/etc/pip.conf:ro", f"{cache}:{_PIP_CACHE_IN_BUILD}"]
    certificate = Path(os.environ.get("PIP_CERT") or _CA_BUNDLE)
    volumes.append(f"{certificate}:{_CA_BUNDLE}:ro")
    wheels = (os.environ.get("PIP_FIND_LINKS") or "").split()
    volumes += [f"{folder}:{folder}:ro" for folder in wheels if Path(folder).is_dir()]
    return [f"--volume={volume}" for volume in volumes]


def project_archive() -> tuple[str, Path]:
    """The image of the project's own Dockerfile, built anew only if its inputs changed.

    Returns:
        Its reference, `docker.io/library/sockethealth:<hash of the inputs>`, and the archive.

    Raises:
        HarnessError: There is no Dockerfile, or the build failed; the message has the end of its output.
    """
    if not (REPOSITORY / "Dockerfile").is_file():
        raise HarnessError("The project's image cannot be built: there is no Dockerfile at the top of the repository.")
    with locked():
        base = _ensure_base()
        image = f"{_PROJECT_NAME}:{_content_hash(base)}"
        if not _exists(image):
            with step(f"building {image}", takes="up to 2 minutes when dependencies changed"):
                _keep_dependencies(base)
                _bound_storage()
                _build_project(base, image, "--layers")
        archive = _archive(image)
        _forget_old_archives()
        return image, archive


def _build_project(base: str, image: str, *options: str) -> None:
    arguments = (*_build_arguments(base), *options, "-t", image, str(REPOSITORY))
    _buildah("bud", *arguments, what="Building the project's image")


def _keep_dependencies(base: str) -> None:
    """Have the layers of the dependencies, which take a minute, outlive those of past builds."""
    arguments = (*_build_arguments(base), "--layers", "--target=dependencies", "-t", _DEPENDENCIES, str(REPOSITORY))
    _buildah("bud", *arguments, what="Installing the project's dependencies")


def _build_arguments(base: str) -> tuple[str, ...]:
    # One time for every file and for the image itself: what is built is told by what is in it alone.
    when = f"--timestamp={_TIMESTAMP_SECONDS}"
    return ("--pull-never", f"--build-arg=BASE={base}", when, *_pip_mounts())


def built_twice() -> tuple[str, str]:
    """Digests of the layers the Dockerfile adds to its base, of two builds that share nothing but pip's downloads.

    Raises:
        HarnessError: A build failed.
    """
    digests = []
    image = f"{_PROJECT_NAME}:twice"
    for which in ("first", "second"):
        with locked(), step(f"the {which} build", takes="a minute or two"):
            _build_project(_ensure_base(), image, "--no-cache")
            shown = json.loads(_buildah("inspect", "--type=image", image, what="Reading the image's layers"))
            digests.append(" ".join(shown["OCIv1"]["rootfs"]["diff_ids"][1:]))
            _buildah("rmi", image, what="Removing the image")
    return digests[0], digests[1]


def _bound_storage() -> None:
    """Forget the layers of past builds once there are many; those of the dependencies have a name and stay."""
    if len(_buildah("images", "--all", "--quiet", what="Listing images").split()) > _INTERMEDIATE_IMAGES_KEPT:
        # A build that was killed leaves its container, and an image in use cannot be removed.
        _buildah("rm", "--all", what="Removing what killed builds left")
        _buildah("rmi", "--prune", what="Removing the layers of past builds")


def _forget_old_archives() -> None:
    name = _PROJECT_NAME.rpartition("/")[2]
    archives = sorted(_folder().glob(f"{name}-{'[0-9a-f]' * 12}.tar"), key=lambda file: file.stat().st_mtime)
    for file in archives[:-_ARCHIVES_KEPT]:
        file.unlink()
        _buildah("rmi", f"{_PROJECT_NAME}:{file.stem.removeprefix(f'{name}-')}", what="Removing an old image")
