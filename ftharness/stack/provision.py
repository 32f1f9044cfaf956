"""Environments of systems under test: made once by pip in a cache folder, kept apart from the harness's own.

What makes one is a recipe (:mod:`ftharness.stack.recipes`). What was interrupted goes on with the step that it was in;
an environment without its marker counts for nothing.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from packaging.version import Version

from ftharness.stack.plan import NotAvailable
from ftharness.stack.provision_checks import check
from ftharness.stack.provision_errors import ProvisionError, SpecError
from ftharness.stack.provision_place import (
    cache_folder,
    complete_folders,
    environments_folder,
    interpreter_of,
    is_complete,
    locked,
    mark_complete,
)
from ftharness.stack.provision_spec import DEFAULT, Spec, of_folder, parsed
from ftharness.stack.provision_steps import Steps
from ftharness.stack.provision_variables import variables_of
from ftharness.stack.recipes import Recipe

__all__ = [
    "DEFAULT",
    "Environment",
    "ProvisionError",
    "Provisioned",
    "SpecError",
    "cache_folder",
    "environment",
    "environments",
    "find_interpreter",
    "provision",
    "provisioned",
    "sut_version",
    "unfinished",
]

_ASK_S = 30.0


class Provisioned(NamedTuple):
    """An environment that is complete.

    Attributes:
        spec: As given to ``ftharness provision``.
        python: Its interpreter.
    """

    spec: str
    python: Path


class Environment(NamedTuple):
    """An environment that is complete, and how to run what is in it.

    Attributes:
        spec: As given to ``ftharness provision``.
        version: Of what the spec names.
        python: Its interpreter; its other programs are beside it.
        recipe: What made it.
    """

    spec: str
    version: str
    python: Path
    recipe: Recipe

    def variables(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """The environment variables of any process of it.

        Args:
            inherited: Those that it would have otherwise, such as ``os.environ``.
        """
        return variables_of(self.recipe, inherited)


def provision(spec: str, say: Callable[[str], None]) -> Path:
    """Make the environment of ``spec``, unless it is there; returns its interpreter.

    Args:
        spec: ``dynamo==1.4.2``, or ``dynamo`` for the default version.
        say: Is told each step, a line a time.

    Raises:
        SpecError: The spec is wrong.
        ProvisionError: The environment could not be made.
    """
    wanted = parsed(spec)
    folder = _folder(wanted)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        place = folder.with_name(f"{folder.name}.lock")
        with locked(place, say) as lock:
            if is_complete(folder):
                say(f"{wanted} is there: {interpreter_of(folder)}")
                return interpreter_of(folder)
            began = time.monotonic()
            try:
                _make(folder, wanted, lock, say)
            except ProvisionError as error:  # what it started has ended
                if error.passes and folder.exists():
                    kept = "what was done is kept; the same command goes on from there"
                    raise ProvisionError(f"{error}\n  {kept}", passes=True) from error
                shutil.rmtree(folder, ignore_errors=True)  # and a later try begins anew
                place.unlink()
                raise
            mark_complete(folder, str(wanted))
            size = f"{_size(folder) / 1e9:.1f} GB"
            say(f"{wanted} is ready after {time.monotonic() - began:.0f} s, {size}: {interpreter_of(folder)}")
            return interpreter_of(folder)
    except OSError as error:
        raise ProvisionError(f"cannot make {folder}: {error.strerror or error} ({error.filename or folder})") from error


def _make(folder: Path, spec: Spec, lock: int, say: Callable[[str], None]) -> None:
    if spec.version not in spec.recipe.tried:
        say(f"{spec} was not tried yet; {', '.join(spec.recipe.tried)} were")
    steps = Steps(folder, spec, lock, say)
    _has_room(folder, spec)
    went_on = steps.begin()
    try:
        steps.carry_out()
        check(spec.recipe, folder, steps.found, lock, say)
    except ProvisionError as error:
        if error.passes or not went_on:
            raise
        # Whatever the interruption left behind: it is not worth being looked for.
        say(f"{error}\nit was an interrupted one; making it anew")
        shutil.rmtree(folder)
        _make(folder, spec, lock, say)
    else:
        steps.finish()


def _has_room(folder: Path, spec: Spec) -> None:
    used = _size(folder) if folder.exists() else 0
    free = shutil.disk_usage(folder.parent).free
    if free + used < spec.recipe.needs_mb * 1_000_000:
        raise ProvisionError(
            f"{spec} needs {spec.recipe.needs_mb / 1e3:.1f} GB, and {free / 1e9:.1f} GB are free in {folder.parent}; "
            "nothing was tried; $FTHARNESS_CACHE names another place"
        )


def _size(folder: Path) -> int:
    """Bytes on the disk, of what is in it."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


def find_interpreter(spec: str) -> Path | None:
    """The interpreter of an environment that was made for ``spec``; None if there is none.

    Raises:
        SpecError: The spec is wrong.
    """
    found = environment(spec)
    return found.python if found else None


def environment(spec: str) -> Environment | None:
    """The environment that was made for ``spec``; None if there is none.

    Raises:
        SpecError: The spec is wrong.
    """
    wanted = parsed(spec)
    folder = _folder(wanted)
    return _environment(wanted, folder) if is_complete(folder) else None


def environments() -> list[Environment]:
    """Every environment that is complete, of every kind; of one kind the newest version first."""
    found = [(spec, folder) for folder in complete_folders() if (spec := of_folder(folder.name))]
    found.sort(key=lambda one: Version(one[0].version), reverse=True)
    found.sort(key=lambda one: (one[0].recipe.name, one[0].recipe.variant))
    return [_environment(spec, folder) for spec, folder in found]


def unfinished() -> list[str]:
    """Specs whose environment was begun and is not complete: it is being made, or that was interrupted."""
    begun = [folder for folder in environments_folder().glob("*") if folder.is_dir() and not is_complete(folder)]
    return sorted(str(spec) for folder in begun if (spec := of_folder(folder.name)))


def provisioned() -> list[Provisioned]:
    """Every environment that was made for Dynamo without an engine, the newest version first."""
    plain = parsed(DEFAULT).recipe
    return [Provisioned(one.spec, one.python) for one in environments() if one.recipe == plain]


def _environment(spec: Spec, folder: Path) -> Environment:
    return Environment(str(spec), spec.version, interpreter_of(folder), spec.recipe)


def _folder(spec: Spec) -> Path:
    return environments_folder() / spec.folder


def sut_version(python: Path, package: str = "ai-dynamo", hint: str = DEFAULT) -> str:
    """The version of a package that an interpreter has.

    Args:
        python: The interpreter.
        package: The distribution.
        hint: The spec that makes an interpreter which has it.

    Raises:
        NotAvailable: There is no such interpreter, or it has none.
    """
    if not os.access(python, os.X_OK):
        raise NotAvailable(f"there is no interpreter {python}")
    return _asked(python, package, hint, python.stat().st_mtime_ns, *_package_times(python))


def _package_times(python: Path) -> Iterator[int]:
    """When its packages last changed: an environment may be upgraded under us."""
    for folder in sorted(python.parent.parent.glob("lib/python3*/site-packages")):
        yield folder.stat().st_mtime_ns


@lru_cache(maxsize=32)
def _asked(python: Path, package: str, hint: str, *_times: int) -> str:
    code = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
    try:
        done = subprocess.run(
            [python, "-c", code, package],
            capture_output=True,
            text=True,
            timeout=_ASK_S,
            check=False,
            cwd=python.parent,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotAvailable(f"{python} does not run: {error}") from error
    if done.returncode:
        how = f"; `ftharness provision {hint}` makes an interpreter that has it" if hint else ""
        raise NotAvailable(f"{python} has no {package}{how}")
    return done.stdout.strip()
