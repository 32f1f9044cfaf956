"""A check: a name, what it shows, and engines that are processes and do as they are told."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

_ENGINE = [sys.executable, "-m", "ftharness.failover.conformance.engine"]
#: Seconds for what must not happen: many times what it takes where it does.
WINDOW_S = 0.3


class NonConformance(AssertionError):  # noqa: N818 - says what is the case
    """A lock does not stand a check; the message says what was done and what it did."""


class Engine:
    """One process with one lock object, of the lock that is checked.

    Args:
        subject: The lock, as ``module:Class`` or ``file.py:Class``.
        path: The lock file.
        name: What it acquires as.
        patience_s: Seconds for what has to happen.
        hindrance: What it starts under: ``no-room`` (no file may grow), ``no-rights`` (permissions count, for root as well),
            ``stop-before-lock`` (stops itself before its first flock or lockf), or "".

    Attributes:
        reason: What the error of its last acquisition said.
    """

    def __init__(self, subject: str, path: Path, name: str, *, patience_s: float, hindrance: str = "") -> None:
        self.name = name
        self.patience_s = patience_s
        self.reason = ""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(
            [*_ENGINE, subject, str(path), name, hindrance],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            bufsize=0,
        )
        self._partial = b""
        answer = self.answer()
        if answer != "ready":
            self.close()
            raise LookupError(f"cannot make the lock {subject}: {answer}")

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def output(self) -> int:
        """The descriptor of its answers, to select among several."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def tell(self, op: str, **arguments: object) -> None:
        """Ask for something, and do not wait for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"op": op, **arguments}).encode() + b"\n")

    def answers_within(self, window_s: float) -> bool:
        """Whether there is an answer, by then."""
        return b"\n" in self._partial or self._readable(window_s)

    def stays_silent(self, otherwise: str, window_s: float = WINDOW_S) -> None:
        """No answer comes in a window.

        Raises:
            NonConformance: One does.
        """
        if self.answers_within(window_s):
            raise NonConformance(f"{otherwise}: {self.answer()}")

    def answer(self) -> Any:
        """The next answer.

        Raises:
            NonConformance: It does not come.
        """
        assert self._process.stdout is not None
        until = time.monotonic() + self.patience_s
        while b"\n" not in self._partial:
            if not self._readable(until - time.monotonic()):
                raise NonConformance(f"{self.name} has not answered within {self.patience_s:g} s")
            data = os.read(self._process.stdout.fileno(), 65_536)
            if not data:
                raise NonConformance(f"{self.name} has ended with {self._process.wait()} instead of answering")
            self._partial += data
        line, _, self._partial = self._partial.partition(b"\n")
        return json.loads(line)

    def ask(self, op: str, **arguments: object) -> Any:
        """The answer to something."""
        self.tell(op, **arguments)
        return self.answer()

    def acquire(self, timeout: float | None) -> str:
        """What comes of it: ``acquired``, or the name of the error, with its message in :attr:`reason`."""
        return self.outcome(self.ask("acquire", timeout=timeout))

    def outcome(self, answer: Any) -> str:
        """The same, of an acquisition that was only told."""
        self.reason = answer.get("reason", "")
        return str(answer["outcome"])

    def acquires(self) -> None:
        """Acquire, and take nothing else for an answer.

        Raises:
            NonConformance: It does not.
        """
        expect(self.acquire(self.patience_s / 2), "acquired", f"{self.name} does not acquire what is free", self)

    def is_refused(self, timeout: float = WINDOW_S) -> None:
        """Try, and be told that another has it.

        Raises:
            NonConformance: It acquires, or something else happens.
        """
        expect(self.acquire(timeout), "FailoverLockContended", f"{self.name} acquires what another holds", self)

    def stop(self) -> None:
        """SIGSTOP; returns when it has stopped."""
        self._process.send_signal(signal.SIGSTOP)
        self.stopped()

    def stopped(self) -> None:
        """Wait until it has stopped."""
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT | os.WEXITED)

    def thaw(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    def signal(self, number: int) -> None:
        """Any signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL; returns when it has ended, but for what it has left behind."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it, and all of those that it forked: they read what is closed now."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()

    def _readable(self, patience_s: float) -> bool:
        return bool(select.select([self.output], [], [], max(0.0, patience_s))[0])


class Bench:
    """What a check has: the lock file, and engines, which it ends."""

    def __init__(self, subject: str, folder: Path, patience_s: float) -> None:
        self._subject = subject
        self._patience_s = patience_s
        self.path = folder / "failover.lock"
        self._engines: list[Engine] = []

    def engine(self, name: str, *, path: Path | None = None, hindrance: str = "") -> Engine:
        """One more."""
        engine = Engine(self._subject, path or self.path, name, patience_s=self._patience_s, hindrance=hindrance)
        self._engines.append(engine)
        return engine

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for engine in self._engines:
            engine.close()


class Check(NamedTuple):
    """One fact that holds of a lock, or not.

    Attributes:
        name: As it is reported.
        shows: The fact.
        code: Shows it.
    """

    name: str
    shows: str
    code: Callable[[Bench], None]

    def __call__(self, subject: str, folder: Path, *, patience_s: float = 20.0) -> None:
        """Check a lock.

        Args:
            subject: The lock, as ``module:Class`` or ``file.py:Class``.
            folder: An empty folder on the filesystem that it is to work on.
            patience_s: Seconds for what has to happen: a busy machine is slow.

        Raises:
            NonConformance: It does not hold.
            LookupError: There is no such lock.
        """
        with Bench(subject, folder, patience_s) as bench:
            try:
                self.code(bench)
            except OSError as error:  # such as a lock file that is not there
                raise NonConformance(f"{type(error).__name__}: {error}") from error

    def __str__(self) -> str:
        return self.name


def check(code: Callable[[Bench], None]) -> Check:
    """A check of the function's name, whose docstring is the fact."""
    return Check(code.__name__, (code.__doc__ or "").strip(), code)


def expect(seen: object, wanted: object, otherwise: str, engine: Engine | None = None) -> None:
    """That something is so.

    Raises:
        NonConformance: It is not; says what is the case instead.
    """
    if seen != wanted:
        reason = f" ({engine.reason})" if engine is not None and engine.reason else ""
        raise NonConformance(f"{otherwise}: {seen}{reason}, instead of {wanted}")
