"""The model on this machine before its engine is started: where it lies already, or where a provisioner puts it.

Nothing is installed or fetched by us: a provisioner is a command of the user's. What it brought is compared with the digest that
the configuration gives; without one, an advisory says so.
"""

import asyncio
import contextlib
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ftharness.placeholders import filled
from ftharness.pool.config import PoolConfig

_PIECE = 1 << 20
_TAIL = 2000
_KILLED_S = 5.0


class StagingError(Exception):
    """The model cannot be had; the message says what was tried, what was seen, and what to do."""


class Staged(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is there.

    Attributes:
        model_id: What requests call it.
        path: Where it lies; "": the engine needs none.
        digest_verified: Whether it was compared with a digest, and is the same.
        digest: The digest; "": none was given.
        advisory: What somebody should know; "": nothing.
    """

    model_id: str = ""
    path: str = ""
    digest_verified: bool = False
    digest: str = ""
    advisory: str = ""


async def stage(config: PoolConfig) -> Staged:
    """See that a pool's model is there.

    Raises:
        StagingError: It is not, or it is not the one.
    """
    if not config.model:
        return Staged()
    path = await _provisioned(config) if config.provisioner else _local(config.model)
    by = "the provisioner said that it lies at" if config.provisioner else "the model is to lie at"
    try:
        there = path.exists()
    except OSError as error:  # a name that no disk can have, a folder that may not be entered
        raise StagingError(f"{by} {path}, where nobody can look: {error.strerror}") from error
    if not there:
        hint = "" if config.provisioner else "; a provisioner could bring it"
        raise StagingError(f"{by} {path}, and there is nothing{hint}")
    name = Path(config.model).name
    if not config.digest:
        advisory = f"{path} was not compared with a digest; `python -m ftharness.pool.staging {path}` prints its own"
        return Staged(model_id=name, path=str(path), advisory=advisory)
    wanted = config.digest.removeprefix("sha256:")
    # In a thread: a model is many gigabytes, and the loop has engines to look after.
    try:
        found = await asyncio.to_thread(digest, path)
    except OSError as error:
        raise StagingError(f"{path} cannot be read: {error}") from error
    if found != wanted:
        raise StagingError(f"{path} is another model than the configuration says: its digest is {found}, not {wanted}")
    return Staged(model_id=name, path=str(path), digest_verified=True, digest=f"sha256:{found}")


def _local(model: str) -> Path:
    try:
        return Path(model).expanduser().absolute()
    except RuntimeError as error:
        raise StagingError(f"{model}: {error}") from error  # ~somebody, of whom this machine knows nothing


def digest(path: Path) -> str:
    """SHA-256 of a file, as ``sha256sum`` prints it; of a folder, that of its list of files.

    The list has a line for each file below it, sorted by name as bytes: ``DIGEST  NAME``, the name from the folder on, as
    ``find -type f | sort | xargs sha256sum`` would print with ``LC_ALL=C``. Links are followed, as the engine will: a hub's
    folder is made of them.

    Raises:
        OSError: Something in it cannot be read.
    """
    if path.is_file():
        return _of_file(path)
    whole = hashlib.sha256()
    for name in sorted(_names(path), key=os.fsencode):
        whole.update(f"{_of_file(path / name)}  {name}\n".encode(errors="surrogateescape"))
    return whole.hexdigest()


def _names(folder: Path) -> Iterator[str]:
    def failed(error: OSError) -> None:
        raise error

    for place, _, names in os.walk(folder, followlinks=True, onerror=failed):
        for name in names:
            yield str(Path(place, name).relative_to(folder))


def _of_file(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            found.update(piece)
    return found.hexdigest()


def provisioner_words(config: PoolConfig) -> dict[str, str]:
    """What placeholders of a provisioner's command stand for."""
    return {"model": config.model}


async def _provisioned(config: PoolConfig) -> Path:
    """Where the provisioner says that the model lies: its last line of output.

    Raises:
        StagingError: It cannot be run, it fails, it takes too long, or it says nothing.
    """
    try:
        argv = [filled(word, provisioner_words(config)) for word in config.provisioner]
    except LookupError as error:
        raise StagingError(f"provisioner: {error.args[0]}") from None
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise StagingError(f"the provisioner {argv[0]} cannot be run: {error.strerror or error}") from error
    try:
        async with asyncio.timeout(config.provisioner_timeout_s):
            output, errors = await process.communicate()
    except TimeoutError:
        raise StagingError(
            f"the provisioner {argv[0]} has not ended within {config.provisioner_timeout_s:g} s"
        ) from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it and what it started: a session of its own
                os.killpg(process.pid, 9)
            with contextlib.suppress(
                TimeoutError
            ):  # asyncio waits for its output, too, which what left the session may hold
                await asyncio.wait_for(process.wait(), _KILLED_S)
    if process.returncode:
        said = errors.decode(errors="replace").strip()[-_TAIL:] or "it said nothing"
        raise StagingError(f"the provisioner {argv[0]} ended with {process.returncode}: {said}")
    lines = output.decode(errors="surrogateescape").split("\n")
    path = next((line.strip() for line in reversed(lines) if line.strip()), "")
    if not path:
        raise StagingError(f"the provisioner {argv[0]} ended well and printed no path")
    return Path(path).absolute()


if __name__ == "__main__":
    if len(sys.argv) < 2:  # noqa: PLR2004 - a program's own name is the first
        sys.exit("usage: python -m ftharness.pool.staging PATH...; prints what `digest` in a pool's configuration is")
    try:
        for word in sys.argv[1:]:
            print(f"sha256:{digest(Path(word))}  {word}")  # noqa: T201 - a program's answer
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}")
