"""The image's list of packages against the lock file that the image is built from."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[3]
RUNTIME = (ROOT / "requirements/runtime.txt").read_text()
ONLY_ON_WINDOWS = {"colorama", "win-inet-pton"}


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    written = [tmp_path_factory.mktemp("sbom") / name for name in ("a.json", "b.json")]
    for file in written:
        command = [sys.executable, "tools/sbom.py", "-o", file]
        subprocess.run(command, cwd=ROOT, check=True, env={"SOURCE_DATE_EPOCH": "1790000000"}, capture_output=True)
    first, second = (file.read_bytes() for file in written)
    assert first == second
    return json.loads(first)


def packages(listed):
    return {one["name"]: one for one in listed["components"] if one["type"] == "library"}


def test_every_locked_package_is_listed_with_its_version_and_its_hashes(listed):
    found = packages(listed)
    pins = re.findall(r"^([a-z0-9._-]+)==([^ ]+)", RUNTIME, re.MULTILINE)
    assert {(name, one["version"]) for name, one in found.items()} == {
        (name, version) for name, version in pins if name not in ONLY_ON_WINDOWS
    }
    assert len(found) > 30
    lines = RUNTIME.splitlines()
    for name, one in found.items():
        start = next(index for index, line in enumerate(lines) if line.startswith(f"{name}=="))
        expected = set()
        for line in lines[start + 1 :]:
            if not line.startswith("    --hash=sha256:"):
                break
            expected.add(line.strip(" \\").removeprefix("--hash=sha256:"))
        (files,) = one["externalReferences"]
        assert {digest["content"] for digest in files["hashes"]} == expected
        assert expected
        assert one["purl"] == f"pkg:pypi/{name}@{one['version']}"


def test_what_the_project_asks_for_is_what_the_list_says_it_needs(listed):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    own = listed["metadata"]["component"]
    assert (own["name"], own["version"]) == ("sockethealth", project["version"])
    (needs,) = [one["dependsOn"] for one in listed["dependencies"] if one["ref"] == own["bom-ref"]]
    asked = {Requirement(one).name.lower() for one in project["dependencies"]}
    assert {ref.split("/")[1].split("@")[0] for ref in needs if ref != "base"} == asked


def test_every_package_is_needed_by_something(listed):
    needed = {ref for one in listed["dependencies"] for ref in one.get("dependsOn", [])}
    assert {one["bom-ref"] for one in listed["components"]} == needed


def test_the_base_image_is_named(listed):
    (base,) = [one for one in listed["components"] if one["type"] == "container"]
    assert f"ARG BASE={base['name']}:{base['version']}\n" in (ROOT / "Dockerfile").read_text()
