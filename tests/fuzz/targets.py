"""What is fuzzed: one module a target, its seeds in seeds/NAME, and its words in dictionaries/NAME.dict."""

import importlib
from collections.abc import Callable
from pathlib import Path

NAMES = ("netlink", "proc_net", "cgroup", "policy", "profile", "expression")
_HERE = Path(__file__).parent


def harness(name: str) -> Callable[[bytes], None]:
    """The function of a target: it takes any bytes, and what it raises is a defect."""
    run: Callable[[bytes], None] = importlib.import_module(f"fuzz.{name}").run
    return run


def seeds(name: str) -> list[bytes]:
    """What a target's search starts from, in a stable order."""
    return [path.read_bytes() for path in sorted(seeds_folder(name).iterdir())]


def seeds_folder(name: str) -> Path:
    """Where the seeds of a target are."""
    return _HERE / "seeds" / name


def dictionary(name: str) -> Path:
    """Words that mean something to a target, as libFuzzer reads them: one a line, in quotes."""
    return _HERE / "dictionaries" / f"{name}.dict"


def words(name: str) -> list[bytes]:
    """The words of a target's dictionary."""
    lines = dictionary(name).read_text(encoding="ascii").splitlines()
    return [line.strip()[1:-1].encode().decode("unicode_escape").encode("latin-1") for line in lines if line[:1] == '"']
