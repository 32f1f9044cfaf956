"""The commands that make an environment: run to their end, their progress told, their failure explained."""

import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ftharness.stack.provision_errors import ProvisionError

_TAIL = 12  # lines that are told when it fails


class _Hint(NamedTuple):
    """What a sign in the output means.

    Attributes:
        sign: What stands there.
        means: What to make of it.
        passes: Whether the same command may do better later.
    """

    sign: str
    means: str
    passes: bool = False


_FULL = "$FTHARNESS_CACHE names another place for environments, $PIP_CACHE_DIR and $TMPDIR for what pip keeps meanwhile"
_NO_NETWORK = "there is no network, or no package index in reach"
_HINTS = (
    _Hint("No matching distribution found", "there is no such version for this Python ({python})"),
    # Of a package that exists: the index was not there. With no retries to tell of, this is all that pip says.
    _Hint("(from versions: none)", _NO_NETWORK, passes=True),
    _Hint("No space left on device", f"the disk is full; {_FULL}"),
    _Hint("Disk quota exceeded", f"the disk quota is used up; {_FULL}"),
    _Hint("Temporary failure in name resolution", _NO_NETWORK, passes=True),
    _Hint("Name or service not known", _NO_NETWORK, passes=True),
    _Hint("NewConnectionError", _NO_NETWORK, passes=True),
    _Hint("Read timed out", "the package index does not answer in time", passes=True),
    _Hint("IncompleteRead", "the connection broke in the middle of a download", passes=True),
    _Hint("Connection refused", "the package index does not answer", passes=True),
    _Hint("ensurepip is not available", "this Python cannot make environments; Debian has it in python3-venv"),
)

# What of pip's output is progress: the big files, and the last step, which takes as long as all before it.
_PROGRESS = re.compile(
    r"(Downloading|Using cached) \S+ \(\d+(\.\d+)? [MG]B\)|Installing collected packages|"
    r"Building wheel|Successfully uninstalled \S+"
)
# Of a look-up that failed: the versions that there are. pip names all of them in one line.
_THERE_ARE = re.compile(r"\(from versions: ([^)]+)\)")
_NAMED = 8  # of those versions, the newest


def run_told(
    argv: Sequence[str],
    what: str,
    lock: int,
    say: Callable[[str], None],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Run it to its end, and tell what it downloads; returns what it said.

    It holds the lock, too: when we are killed, it goes on for a while, and nobody else may begin before it has ended.

    Args:
        argv: What to run.
        what: What that is, for the error.
        lock: The lock's descriptor.
        say: Is told each step of progress.
        env: Its environment; None is ours.
        cwd: Where it runs; None is where we do.

    Raises:
        ProvisionError: It failed; quotes its last lines, and says what they mean where that is known.
    """
    said: list[str] = []
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        pass_fds=(lock,),
        env=env,
        cwd=cwd,
    ) as running:
        assert running.stdout is not None
        for line in running.stdout:
            said.append(line)
            if found := _PROGRESS.search(line):
                say(f"  {found[0]}")
    if running.returncode:
        raise _failure(said, what, running.returncode)
    return "".join(said)


def _failure(said: Sequence[str], what: str, status: int) -> ProvisionError:
    output = "".join(said)
    hints = [hint for hint in _HINTS if hint.sign in output]
    # Without a network pip says in the end that there is no such version; why it saw none comes first.
    hint = next((one for one in hints if one.passes), hints[-1] if hints else None)
    why = f": {hint.means.format(python=sys.version.split()[0])}" if hint else f" (exit status {status})"
    found = _THERE_ARE.search(output)
    if found and found[1] != "none":
        versions = found[1].split(", ")
        more = "…, " if len(versions) > _NAMED else ""
        why += f"; the index has {more}{', '.join(versions[-_NAMED:])}"
    # A failed look-up warns of each retry, and names hundreds of versions in one line.
    lines = [line.rstrip()[:500] for line in said if line.strip() and "is ignored: it is neither" not in line]
    tail = "\n".join(f"    {line}" for line in lines[-_TAIL:])
    return ProvisionError(f"{what} failed{why}\n  its last lines:\n{tail}", passes=hint is not None and hint.passes)
