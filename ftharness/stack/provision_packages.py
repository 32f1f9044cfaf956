"""The packages of an environment, as their metadata on the disk say: what they ask for, and what is only half there."""

import shutil
from collections.abc import Iterator
from importlib.metadata import Distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from ftharness.stack.provision_errors import ProvisionError
from ftharness.stack.recipes import Choose, Requires


def site_packages(folder: Path) -> Path:
    """Where an environment's packages lie.

    Raises:
        ProvisionError: It has no such folder.
    """
    found = next(iter(folder.glob("lib/python3*/site-packages")), None)
    if found is None:
        raise ProvisionError(
            f"{folder} has no lib/python3*/site-packages: it is no environment; remove it and try again"
        )
    return found


def requirements(folder: Path, step: Requires) -> list[str]:
    """What pip is to install for a step; sorted as the metadata has it, each once."""
    without = {canonicalize_name(name) for name in step.without}
    bare = {canonicalize_name(name) for name in step.bare}
    any_build = {canonicalize_name(name) for name in step.any_build}
    wanted: dict[str, None] = {}
    for requirement in _asked_for(folder, step.of, step.extra):
        name = canonicalize_name(requirement.name)
        if name in without:
            continue
        if name in bare:
            requirement.extras = set()
        if name in any_build:
            requirement.specifier = _of_any_build(requirement.specifier)
        wanted[str(requirement)] = None
    return [*wanted, *step.also]


def chosen(folder: Path, step: Choose) -> str:
    """The version that a step looks for.

    Raises:
        ProvisionError: The package asks for no such thing, or not for one version of it.
    """
    for requirement in _asked_for(folder, step.of, step.extra):
        if canonicalize_name(requirement.name) == step.requirement:
            pins = [one.version for one in requirement.specifier if one.operator == "=="]
            if len(pins) == 1 and not pins[0].endswith("*"):
                return pins[0]
            raise ProvisionError(
                f"{step.of} asks for {requirement}, which is not one version; this release is unknown here"
            )
    where = f"{step.of}[{step.extra}]" if step.extra else step.of
    raise ProvisionError(
        f"{where} does not ask for {step.requirement}; a release of another kind than those known here"
    )


def _asked_for(folder: Path, package: str, extra: str) -> Iterator[Requirement]:
    """What a package requires on this Python, which is the environment's too, without the markers."""
    place = site_packages(folder)
    found = next(iter(Distribution.discover(name=package, path=[str(place)])), None)
    if found is None:
        raise ProvisionError(f"pip installed {package}, but it is not in {place}")
    for line in found.requires or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": one}) for one in {"", extra}):
            requirement.marker = None
            yield requirement


def _of_any_build(specifiers: SpecifierSet) -> SpecifierSet:
    public = [
        f"=={Version(one.version).public}" if one.operator == "==" and "+" in one.version else str(one)
        for one in specifiers
    ]
    return SpecifierSet(",".join(public))


def say_installed(folder: Path, name: str, version: str, instead: str) -> None:
    """Put metadata of a distribution there that is not; ``instead`` says why, to whoever looks."""
    info = site_packages(folder) / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: {instead}\n", "utf-8"
    )
    (info / "RECORD").write_text(
        "".join(f"{info.name}/{one},,\n" for one in ("METADATA", "INSTALLER", "RECORD")), "utf-8"
    )
    (info / "INSTALLER").write_text("ftharness\n", "utf-8")


def drop_half_installed(folder: Path) -> list[str]:
    """Have pip forget packages that it had not finished when it was killed; their names.

    pip takes a package for installed as soon as its metadata are there, and writes the file INSTALLER when all else is
    written. A folder that begins with ``~`` is what it was about to delete.
    """
    place = site_packages(folder)
    dropped = []
    for info in sorted(place.glob("*.dist-info")):
        if not (info / "INSTALLER").is_file():
            shutil.rmtree(info)
            dropped.append(info.name.removesuffix(".dist-info"))
    for left in place.glob("~*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    return dropped
