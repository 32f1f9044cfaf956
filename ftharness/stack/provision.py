"""Environments of systems under test: made once by pip in a cache folder, kept apart from the harness's own.

A venv cannot be built beside its place and moved there, for its scripts hold its path. So it is built in place under a
lock, and a marker that is written last says that it is complete; what has no marker is torn down and made anew.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import Distribution
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from ftharness.stack.plan import NotAvailable
from ftharness.suggest import nearest

DEFAULT = "dynamo==1.4.2"
_MARKER = ".complete"
_TAIL = 12  # lines of pip's that are told when it fails
_ASK_S = 30.0


class _Recipe(NamedTuple):
    """What a name in a spec installs.

    Attributes:
        package: From the package index.
        default: The version of a spec that names none.
        without: Requirements that are left out.
    """

    package: str
    default: str
    without: frozenset[str]


# aisimulate is a source package that fetches the real one from another index while it is built; nothing here uses it.
_RECIPES = {"dynamo": _Recipe("ai-dynamo", "1.4.2", frozenset({"aisimulate"}))}


class ProvisionError(Exception):
    """An environment could not be made; the message says what was tried, what was seen, and what to do."""


class SpecError(ProvisionError):
    """What was asked for cannot be an environment; nothing was tried."""


class Provisioned(NamedTuple):
    """An environment that is complete.

    Attributes:
        spec: As given to ``ftharness provision``.
        python: Its interpreter.
    """

    spec: str
    python: Path


def cache_folder() -> Path:
    """``$FTHARNESS_CACHE``, or ``$XDG_CACHE_HOME/ftharness``, or ``~/.cache/ftharness``."""
    if own := os.environ.get("FTHARNESS_CACHE"):
        return Path(own).absolute()
    xdg = os.environ.get("XDG_CACHE_HOME")
    return (Path(xdg) if xdg else Path.home() / ".cache").absolute() / "ftharness"


def provision(spec: str, say: Callable[[str], None]) -> Path:
    """Make the environment of ``spec``, unless it is there; returns its interpreter.

    Args:
        spec: ``dynamo==1.4.2``, or ``dynamo`` for the default version.
        say: Is told each step, a line a time.

    Raises:
        SpecError: The spec is wrong.
        ProvisionError: The environment could not be made.
    """
    name, version = _parsed(spec)
    folder = _folder(name, version)
    python = folder / "bin" / "python"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        place = folder.with_name(f"{folder.name}.lock")
        with _locked(place, say) as lock:
            if _complete(folder):
                say(f"{name}=={version} is there: {python}")
                return python
            if folder.exists():
                say(f"an earlier try to make {folder} was not finished; making it anew")
                shutil.rmtree(folder)
            began = time.monotonic()
            try:
                _make(folder, _RECIPES[name], version, lock, say)
            except ProvisionError:  # what it started has ended, and a later try begins anew
                shutil.rmtree(folder, ignore_errors=True)
                place.unlink()
                raise
            (folder / _MARKER).write_text(f"{name}=={version}\n", encoding="utf-8")
            say(f"{name}=={version} is ready after {time.monotonic() - began:.0f} s: {python}")
            return python
    except OSError as error:
        raise ProvisionError(f"cannot make {folder}: {error.strerror or error} ({error.filename or folder})") from error


def find_interpreter(spec: str) -> Path | None:
    """The interpreter of an environment that was made for ``spec``; None if there is none.

    Raises:
        SpecError: The spec is wrong.
    """
    folder = _folder(*_parsed(spec))
    return folder / "bin" / "python" if _complete(folder) else None


def provisioned() -> list[Provisioned]:
    """Every environment that is complete, the newest version first."""
    found: list[tuple[str, Version, Path]] = []
    for marker in (cache_folder() / "sut").glob(f"*/{_MARKER}"):
        name, _, version = marker.parent.name.partition("-")
        if name in _RECIPES and _complete(marker.parent):
            found.append((name, Version(version), marker.parent / "bin" / "python"))
    return [Provisioned(f"{name}=={version}", python) for name, version, python in sorted(found, reverse=True)]


def sut_version(python: Path) -> str:
    """The version of ai-dynamo that an interpreter has.

    Raises:
        NotAvailable: There is no such interpreter, or it has none.
    """
    if not os.access(python, os.X_OK):
        raise NotAvailable(f"there is no interpreter {python}")
    return _asked(python, python.stat().st_mtime_ns, *_package_times(python))


def _package_times(python: Path) -> Iterator[int]:
    """When its packages last changed: an environment may be upgraded under us."""
    for folder in sorted(python.parent.parent.glob("lib/python3*/site-packages")):
        yield folder.stat().st_mtime_ns


@lru_cache(maxsize=32)
def _asked(python: Path, *_times: int) -> str:
    code = "import importlib.metadata as m; print(m.version('ai-dynamo'))"
    try:
        done = subprocess.run(
            [python, "-c", code], capture_output=True, text=True, timeout=_ASK_S, check=False, cwd=python.parent
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotAvailable(f"{python} does not run: {error}") from error
    if done.returncode:
        raise NotAvailable(
            f"{python} has no ai-dynamo; `ftharness provision {DEFAULT}` makes an interpreter that has it"
        )
    return done.stdout.strip()


def _parsed(spec: str) -> tuple[str, str]:
    name, _, version = (part.strip() for part in spec.partition("=="))
    if name not in _RECIPES:
        raise SpecError(f"nothing is known of how to provision {name!r}; {nearest(name, list(_RECIPES))}")
    if not version and "==" not in spec:
        return name, _RECIPES[name].default
    try:
        return name, str(Version(version))
    except InvalidVersion:
        raise SpecError(f"{spec}: {version!r} is not a version; a spec looks like {DEFAULT}") from None


def _folder(name: str, version: str) -> Path:
    return cache_folder() / "sut" / f"{name}-{version}"


def _complete(folder: Path) -> bool:
    # Its interpreter is a link to the one it was made with, which may have been removed since.
    return (folder / _MARKER).is_file() and (folder / "bin" / "python").exists()


@contextmanager
def _locked(path: Path, say: Callable[[str], None]) -> Iterator[int]:
    """One at a time; gives the lock's descriptor."""
    lock = _lock(path, say)
    while not _is_at(path, lock):  # whoever had it has unlinked it: it would exclude nobody
        os.close(lock)
        lock = _lock(path, say)
    try:
        yield lock
    finally:
        os.close(lock)


def _lock(path: Path, say: Callable[[str], None]) -> int:
    lock = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"waiting for another process that has {path}")
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _make(folder: Path, recipe: _Recipe, version: str, lock: int, say: Callable[[str], None]) -> None:
    say(f"making {folder} with {sys.executable}")
    _run([sys.executable, "-I", "-m", "venv", str(folder)], f"making {folder}", lock, say)
    pip = [str(folder / "bin" / "python"), "-I", "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    wanted = f"{recipe.package}=={version}"
    say(f"installing {wanted}")
    _run([*pip, "--no-deps", wanted], f"pip install {wanted}", lock, say)
    needed = _requirements(folder, recipe)
    if needed:
        say(f"installing what it requires: {', '.join(needed)}")
        _run([*pip, *needed], f"pip install of what {wanted} requires", lock, say)


def _requirements(folder: Path, recipe: _Recipe) -> list[str]:
    """What its metadata asks for on this Python, which is the environment's too."""
    places = [str(place) for place in folder.glob("lib/python3*/site-packages")]
    found = next(iter(Distribution.discover(name=recipe.package, path=places)), None)
    if found is None:
        raise ProvisionError(f"pip installed {recipe.package}, but it is not in {folder}")
    needed = []
    for line in found.requires or ():
        requirement = Requirement(line)
        if requirement.name in recipe.without:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            requirement.marker = None
            needed.append(str(requirement))
    return needed


_HINTS = (
    ("No matching distribution found", "there is no such version for this Python ({python})"),
    ("No space left on device", "the disk is full; $FTHARNESS_CACHE names another place"),
    ("Disk quota exceeded", "the disk quota is used up; $FTHARNESS_CACHE names another place"),
    ("Temporary failure in name resolution", "there is no network, or no package index in reach"),
    ("Name or service not known", "there is no network, or no package index in reach"),
    ("NewConnectionError", "there is no network, or no package index in reach"),
    ("Connection refused", "the package index does not answer"),
    ("ensurepip is not available", "this Python cannot make environments; Debian has it in python3-venv"),
)


# What of pip's output is progress: the big files, and the last step, which takes as long as all before it.
_PROGRESS = re.compile(
    r"(Downloading|Using cached) \S+ \(\d+(\.\d+)? [MG]B\)|Installing collected packages|Building wheel"
)


def _run(argv: Sequence[str], what: str, lock: int, say: Callable[[str], None]) -> None:
    """Run it to its end, and tell what it downloads.

    It holds the lock, too: when we are killed, it goes on for a while, and nobody else may begin before it has ended.
    """
    said: list[str] = []
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, pass_fds=(lock,)
    ) as running:
        assert running.stdout is not None
        for line in running.stdout:
            said.append(line)
            if found := _PROGRESS.search(line):
                say(f"  {found[0]}")
    if running.returncode:
        output = "".join(said)
        # A failed look-up names hundreds of versions in one line, and warns of each retry.
        lines = [line.rstrip()[:500] for line in said if line.strip()]
        hints = [hint for sign, hint in _HINTS if sign in output]
        why = (
            f": {hints[-1]}".format(python=sys.version.split()[0]) if hints else f" (exit status {running.returncode})"
        )
        tail = "\n".join(f"    {line}" for line in lines[-_TAIL:])
        raise ProvisionError(f"{what} failed{why}\n  its last lines:\n{tail}")
