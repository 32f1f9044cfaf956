"""One attempt at one shard: a process, what it says, and how it ended."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, NamedTuple

from ftharness.coordinator.child import WorkerFn, work
from ftharness.coordinator.devices import seen_as
from ftharness.coordinator.oom_kills import oom_kills
from ftharness.coordinator.reports import Attempt, Inbox, Reports


class Ending(NamedTuple):
    """How an attempt ended, and all that is known of why.

    Attributes:
        exitcode: As of :class:`multiprocessing.Process`: below 0 the signal that killed it. None: it could not be started.
        reports: What it said, oldest first.
        ended_by: Why the coordinator itself ended it; "" where it did not.
        oom_kills: How many processes the kernel killed for want of memory while it ran.
    """

    exitcode: int | None
    reports: tuple[dict[str, Any], ...] = ()
    ended_by: str = ""
    oom_kills: int = 0

    @property
    def failure(self) -> dict[str, Any]:
        """The last report of a failure; empty where there is none."""
        return next((one for one in reversed(self.reports) if one.get("status") == "failed"), {})

    @property
    def batch_idx(self) -> int | None:
        """The batch that it was at, by the last report that names one."""
        return next((one["batch_idx"] for one in reversed(self.reports) if isinstance(one.get("batch_idx"), int)), None)

    @property
    def skipped_batches(self) -> frozenset[int]:
        """Those that it says it left out."""
        return frozenset(batch for one in self.reports for batch in one.get("skipped_batches") or ())

    @property
    def succeeded(self) -> bool:
        """Whether it ended with status 0, and did not say otherwise; one that was told to end has to say that it was done."""
        done = not self.ended_by or any(one.get("status") == "complete" for one in self.reports)
        return self.exitcode == 0 and not self.failure and done


class Worker:
    """A worker's process.

    Its end is told by its pidfd. The sentinel of multiprocessing is a pipe which every process inherits that the worker
    starts, so that one that outlives it would hide its end.

    Args:
        context: Of multiprocessing, which spawns.
        worker_fn: What it calls.
        world_size: Of how many workers it is told.
        args: What it is called with beside.
        attempt: At what.
        mask: Its CUDA_VISIBLE_DEVICES; None: this process's own.
        on_report: Told of each report as it comes.

    Attributes:
        attempt: The same.
        process: The process.
        ended_by: Why the coordinator ended it; "" where it did not.

    Raises:
        OSError: No process could be had.
        Exception: The function or an argument cannot be pickled, so not be sent to another process.
    """

    def __init__(
        self,
        context: SpawnContext,
        worker_fn: WorkerFn,
        world_size: int,
        args: tuple[Any, ...],
        *,
        attempt: Attempt,
        mask: str | None,
        on_report: Callable[[dict[str, Any]], None],
    ) -> None:
        self.attempt = attempt
        self.ended_by = ""
        self._told = False
        self._on_report = on_report
        self._said: list[dict[str, Any]] = []
        self._oom_kills = oom_kills()
        name = f"gpu_worker_{attempt.worker}" + (f"_shard_{attempt.shard}" if attempt.worker != attempt.shard else "")
        ours, theirs = context.Pipe(duplex=False)
        try:
            self.process: SpawnProcess = context.Process(
                target=work, args=(worker_fn, attempt.shard, world_size, Reports(theirs, attempt), args), name=name
            )
            with seen_as(mask), _deaf_to_ctrl_c():
                self.process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()  # it is the worker's
        self._inbox = Inbox(ours, name)
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:  # it has ended, and another thread that asked multiprocessing has reaped it
            self._pidfd = -1
        except OSError:  # no descriptor is left: it must not run without us
            self.process.kill()
            self.process.join()
            ours.close()
            raise

    @property
    def pid(self) -> int:
        """Its process's number."""
        assert self.process.pid is not None, "it was started"
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.is_alive()

    @property
    def fds(self) -> list[int]:
        """What may tell something of it."""
        return [fd for fd in (self._pidfd, self._inbox.fileno()) if fd >= 0]

    def listen(self) -> None:
        """Take in what it has said."""
        for report in self._inbox.take():
            self._said.append(report)
            self._on_report(report)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens where it has ended.

        SIGTERM only once: a handler that is writing a checkpoint would begin anew, in the midst of it.
        """
        again = number is signal.SIGTERM and self._told
        self._told |= number is signal.SIGTERM
        if self._pidfd >= 0 and not again:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def ending(self) -> Ending | None:
        """How it ended, with all that it said; None while it runs."""
        if self.alive:
            return None
        self.process.join()
        self.listen()
        return Ending(self.process.exitcode, tuple(self._said), self.ended_by, oom_kills() - self._oom_kills)

    def close(self) -> None:
        """Let go of what is left of one that has ended."""
        self._inbox.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """What is started within has SIGINT blocked, until it can ignore it: an interpreter that starts ends with a traceback by it.

    It comes to all processes of a terminal, and what becomes of it is the coordinator's to decide. Here it is only late.
    """
    resource_tracker.ensure_running()  # multiprocessing's own, which unblocks the signal when it is started with the first worker
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
