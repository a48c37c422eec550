"""Writes what the image has from the package index, as CycloneDX 1.6: `make sbom`, or `tools/sbom.py [-o FILE]`.

Made from requirements/runtime.txt, whose hashes the image's build demands: what is listed here is what can be in it.
The base image and its own packages are named as one component, as whoever builds chooses it.
"""

import argparse
import os
import re
import sys
import tomllib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
_REQUIREMENTS = ROOT / "requirements" / "runtime.txt"
_SELF = "sockethealth"
_NAMESPACE = uuid.UUID("7b0c9a52-2f0b-5d0a-9a77-0c0f5f3b7c11")


@dataclass(frozen=True)
class Locked:
    """One package of a requirements file: its hashes are those of every file it may be installed from."""

    requirement: Requirement
    version: str
    hashes: tuple[str, ...]
    needed_by: tuple[str, ...]


def locked(text: str) -> Iterator[Locked]:
    """The packages of a file as uv writes it: name, version and marker, hashes, and who needs it."""
    for block in re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]:
        line = block.splitlines()[0].removesuffix("\\")
        requirement = Requirement(line.strip())
        (pin,) = requirement.specifier
        needed_by = re.findall(r"^ +#(?: via|  ) +([a-z0-9._-]+)", block, re.MULTILINE)
        hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})", block)
        yield Locked(requirement, pin.version, tuple(hashes), tuple(needed_by))


def in_the_image(package: Locked, python: str) -> bool:
    """Whether a package is installed on Linux by this minor release of Python."""
    environment = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "python_version": python}
    marker = package.requirement.marker
    return marker is None or marker.evaluate({**environment, "python_full_version": f"{python}.0"})


def base_image() -> tuple[str, str]:
    """Name and tag of the Dockerfile's default base."""
    found = re.search(r"^ARG BASE=(\S+):(\S+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise SystemExit("The Dockerfile has no line ARG BASE=NAME:TAG, from which the base image is known.")
    return found[1], found[2]


def bill(made_at: datetime) -> Bom:
    """The list of the image."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = _REQUIREMENTS.read_text(encoding="utf-8")
    image, tag = base_image()
    python = re.match(r"3\.[0-9]+", tag)
    packages = [one for one in locked(text) if in_the_image(one, python[0] if python else "3.13")]
    own = Component(
        type=ComponentType.APPLICATION,
        name=_SELF,
        version=project["version"],
        bom_ref=_SELF,
        licenses=[LicenseExpression(project["license"])],
    )
    base = Component(type=ComponentType.CONTAINER, name=image, version=tag, bom_ref="base")
    components = {one.requirement.name: _component(one) for one in packages}
    bom = Bom(components=[base, *components.values()], serial_number=uuid.uuid5(_NAMESPACE, f"{image}:{tag}\n{text}"))
    bom.metadata.component = own
    bom.metadata.timestamp = made_at
    needs: dict[str, list[Component]] = {_SELF: [base]}
    for one in packages:
        for parent in one.needed_by:
            needs.setdefault(parent, []).append(components[one.requirement.name])
    for name, component in {_SELF: own, **components}.items():
        bom.register_dependency(component, needs.get(name, []))
    return bom


def _component(package: Locked) -> Component:
    name = package.requirement.name
    purl = PackageURL("pypi", None, name, package.version)
    files = [HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in package.hashes]
    return Component(
        type=ComponentType.LIBRARY,
        name=name,
        version=package.version,
        bom_ref=purl.to_string(),
        purl=purl,
        licenses=_licenses(name, package.version),
        external_references=[
            ExternalReference(
                type=ExternalReferenceType.DISTRIBUTION,
                url=XsUri(purl.to_string()),
                comment="the files it may be installed from, by their hashes",
                hashes=files,
            )
        ],
    )


def _licenses(name: str, version: str) -> list[LicenseExpression]:
    """What the package says of itself where the same version is installed here."""
    try:
        installed = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return []
    if installed["Version"] != version or "License-Expression" not in installed:
        return []
    return [LicenseExpression(installed["License-Expression"])]


def main() -> int:
    """Write the list."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "dist" / "sbom.cdx.json")
    output = parser.parse_args().output
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    made_at = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    found = bill(made_at)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(JsonV1Dot6(found).output_as_string(indent=2) + "\n", encoding="utf-8")
    sys.stderr.write(f"{output} lists {len(found.components)} components\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
