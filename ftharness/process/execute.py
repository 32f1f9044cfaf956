"""From fork to exec: what a new process does before it becomes its program.

Standard library only: the guardian runs it.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable

from ftharness.process.wire import Launch

# An ignored signal stays ignored through exec. Python ignores the first two, the guardian the others.
_IGNORED_ABOVE = (
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
)


def spawn(
    launch: Launch, output: int, passed: list[int], before_exec: Callable[[], None] | None = None
) -> tuple[int, str, int]:
    """Fork, and exec the program of ``launch`` with ``output`` as its stdout and stderr.

    Args:
        launch: What to run.
        output: Where its output goes.
        passed: Descriptors that it gets, under the launch's numbers.
        before_exec: Called in the new process when all else is done: who gives up privileges does it here. An OSError of
            it is a failure of the stage ``privileges``.

    Returns:
        The pid, and ``""`` and 0 when the program runs; else the stage that failed and its errno, and the pid is to
        be waited for all the same.
    """
    failure, report = os.pipe()  # closed by the exec, so that its end without a byte is success
    pid = os.fork()
    if pid == 0:
        os.close(failure)
        _become(launch, output, passed, report, before_exec)
    os.close(report)
    with open(failure, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
        words = file.read().decode().split()
    return (pid, words[0], int(words[1])) if words else (pid, "", 0)


def _become(
    launch: Launch, output: int, passed: list[int], report: int, before_exec: Callable[[], None] | None
) -> None:
    stage = "fds"
    try:
        os.setsid()
        for ignored in _IGNORED_ABOVE:
            signal.signal(ignored, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        output, report, *passed = _out_of_the_way([output, report, *passed], {1, 2, *launch.fds})
        for fd, number in ((output, 1), (output, 2), *zip(passed, launch.fds, strict=True)):
            os.dup2(fd, number)
        stage = "cwd"
        os.chdir(launch.cwd)
        if before_exec is not None:
            stage = "privileges"
            before_exec()
        stage = "program"
        _exec(launch)
    except OSError as error:
        os.write(report, b"%s %d" % (stage.encode(), error.errno or 0))
    finally:
        os._exit(127)


def _out_of_the_way(fds: list[int], numbers: set[int]) -> list[int]:
    """The same files under descriptors that are none of ``numbers``, which dup2 is about to overwrite."""
    moved = []
    for fd in fds:
        free = fd
        while free in numbers:
            free = os.dup(free)  # the old one stays open until the exec, so each dup gives a new number
        moved.append(free)
    return moved


def _exec(launch: Launch) -> None:
    """Become the program; like a shell, look for it in the PATH that it gets.

    Raises:
        OSError: It cannot be run. Of several places in PATH, the one that says more than that nothing is there.
    """
    environment = dict(variable.split(b"=", 1) for variable in launch.environment)
    program = launch.argv[0]
    folders = [b""] if b"/" in program else environment.get(b"PATH", os.fsencode(os.defpath)).split(b":")
    failed: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    for folder in folders:
        try:
            os.execve(os.path.join(folder, program), launch.argv, environment)  # noqa: S606, PTH118 - no shell, no pathlib
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            failed = error
    raise failed
