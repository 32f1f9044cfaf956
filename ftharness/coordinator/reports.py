"""What a worker says, over a pipe of its own: one that is killed in mid-sentence, or frozen there, keeps nobody waiting."""

import logging
import os
import pickle
import struct
import threading
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

_log = logging.getLogger("ftharness.coordinator")
_HEAD = struct.Struct("!Q")
#: bytes. What claims to be longer is no report, but what a program wrote into a descriptor that was not its own.
_LONGEST = 1 << 32
_READS = 64  # at a time, of a pipe's whole content each: one that never stops talking is not all there is to listen to


class Attempt(NamedTuple):
    """What a worker is told of its attempt at a shard.

    Attributes:
        shard: Whose work it is: its ``rank``.
        worker: On whose device it runs: the same, unless the work was given to another.
        number: 1 for the first at this shard.
        failed_as: How the one before failed: ``oom``, say, after which smaller batches may help; "" for the first.
        skip_batches: Those that were given up as poison: they are to be left out, and named in the report of the end as
            ``skipped_batches``.
    """

    shard: int
    worker: int
    number: int = 1
    failed_as: str = ""
    skip_batches: frozenset[int] = frozenset()


class Reports:
    """A worker's end: its ``results_queue``.

    Attributes:
        attempt: What it is told of this attempt.
    """

    def __init__(self, pipe: Connection, attempt: Attempt) -> None:
        self._pipe = pipe
        self._one_at_a_time = threading.Lock()
        self.attempt = attempt

    def put(self, report: dict[str, Any]) -> None:
        """Say something: it has left this process when this returns, whatever happens to the process then.

        Args:
            report: Plain data. ``status`` is ``running``, ``complete`` or ``failed``; of a failure ``error`` or ``error_type``
                says which, ``error_message`` more, ``batch_idx`` where. Anything else is the caller's own.

        Raises:
            BrokenPipeError: The coordinator is gone.
        """
        body = pickle.dumps(report)
        rest = memoryview(_HEAD.pack(len(body)) + body)
        with self._one_at_a_time:
            while rest:
                rest = rest[os.write(self._pipe.fileno(), rest) :]

    def __getstate__(self) -> tuple[Connection, Attempt]:
        return self._pipe, self.attempt

    def __setstate__(self, state: tuple[Connection, Attempt]) -> None:
        self.__init__(*state)  # type: ignore[misc] # a lock is not for another process


class Inbox:
    """The coordinator's end. It never waits: it takes what is there, and keeps a sentence that is not whole yet."""

    def __init__(self, pipe: Connection, name: str) -> None:
        self._pipe = pipe
        self._name = name
        self._heard = bytearray()
        os.set_blocking(pipe.fileno(), False)

    def fileno(self) -> int:
        """To wait for; -1 when there will be nothing more."""
        return -1 if self._pipe.closed else self._pipe.fileno()

    def take(self) -> list[dict[str, Any]]:
        """What was said since; after the last word :meth:`fileno` is -1."""
        for _ in range(_READS):
            if self._pipe.closed:
                break
            try:
                said = os.read(self._pipe.fileno(), 1 << 20)
            except BlockingIOError:
                break
            self._heard += said
            if not said:
                self.close()
        return self._whole()

    def close(self) -> None:
        """No more is listened to."""
        self._pipe.close()

    def _whole(self) -> list[dict[str, Any]]:
        reports = []
        while len(self._heard) >= _HEAD.size:
            (size,) = _HEAD.unpack_from(self._heard)
            if size > _LONGEST:
                _log.warning(
                    "%s: what it says is not from its results_queue, and is not listened to any more", self._name
                )
                self._heard.clear()
                self.close()
            end = _HEAD.size + size
            if len(self._heard) < end:
                break
            body = bytes(self._heard[_HEAD.size : end])
            del self._heard[:end]
            try:
                said = pickle.loads(body)  # noqa: S301 - what our own child wrote, into a pipe that only it has
            except Exception as error:  # noqa: BLE001 - a class of its own that is not known here, for one
                said = {"error_message": f"a report that cannot be read here: {type(error).__name__}: {error}"}
                _log.warning("%s: %s", self._name, said["error_message"])
            reports.append(said if isinstance(said, dict) else {"report": said})
        return reports
