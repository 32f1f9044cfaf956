"""From a trigger's moment to its fault's signal.

The whole way of a real run: pipe or socket, scan or client, history, nemesis, process. A worker writes lines that hold
CLOCK_MONOTONIC, which all processes of a machine share; the fault is a kill of a second process, another one each time.
A token's moment is the read that brought it; of a line both are told, its write and its read. The peers send a signal as
well, and notice the same kind of line as other harnesses do: by a look at the new end of the log file each 100 ms, and by
reading the whole file (20 MB, as a worker's log is at debug level) each 5 ms. What the machine itself takes is told by a
blocking read of the pipe that is followed by the signal, and by nothing else. All take turns.
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from _figures import Figures, quantile

from ftharness.client import Request, completion
from ftharness.faults import kill, named
from ftharness.history import History, Log, ProcessSignalled, RequestChunk
from ftharness.logs import load_contract
from ftharness.process import Processes, Redactor, log_event
from ftharness.scenario import on_log, on_token
from ftharness.scenario.nemesis import Nemesis
from ftharness.scenario.trigger import Trigger
from ftharness.stack import Plan, RunningStack
from ftharness.stack.plan import Launch

_SERVER = Path(__file__).with_name("_sse_server.py")
_SPEED = 200
# For each byte that it reads it writes a line that holds its time, at a moment that nothing else knows.
_WORKER = """
import os, random, sys, time
moments = random.Random(7)
os.write(1, b"Worker worker-1 is ready, serving m\\n")
while os.read(0, 1):
    time.sleep(moments.uniform(*map(float, sys.argv[1:])))
    os.write(1, b"2026-01-31T12:00:00Z DEBUG handlers.generate: New Request ID: %d\\n" % time.monotonic_ns())
"""
_TARGET = ["/bin/sleep", "1000"]


def _worker(held: int) -> Launch:
    # A process of ours reads /dev/null: this one gets a pipe.
    return Launch(
        name="worker",
        role="aggregated",
        argv=[sys.executable, "-I", "-S", "-c", f"import os; os.dup2({held}, 0)\n{_WORKER}", "0.005", "0.02"],
        env=dict(os.environ),
        contract=load_contract("sim", ""),
        ready=[log_event("ready")],
        pass_fds=(held,),
    )


@contextmanager
def _sse_server() -> Iterator[str]:
    argv = [sys.executable, str(_SERVER), str(_SPEED)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        server.stdin.close()


class _Ours:
    """A stack of two processes below a nemesis."""

    def __init__(self, history: History, stack: RunningStack, line_please: int) -> None:
        self.history = history
        self.stack = stack
        self.nemesis = Nemesis(stack, history, speed=_SPEED)
        self.read_ms: list[float] = []  # from a line's read to the signal: our own part of it
        self._line_please = line_please
        self._targets = 0
        self._requests = 0

    async def log_line(self) -> float:
        """Milliseconds from a line's write to the signal."""
        sent = await self._killed(on_log("request_received", source="worker"))
        line = next(e for e in reversed(self.history.events[: sent.n]) if isinstance(e, Log))
        self.read_ms.append((sent.t - line.t) / 1e6)
        written = int(line.captures["request"]) - self.history.start_ns
        return (sent.t - written) / 1e6

    async def token(self) -> float:
        """Milliseconds from the third token's read to the signal."""
        self._requests += 1
        sent = await self._killed(on_token(3, request=self._requests), completion(max_tokens=4))
        chunk = next(e for e in reversed(self.history.events[: sent.n]) if isinstance(e, RequestChunk) and e.first == 2)
        return (sent.t - chunk.t) / 1e6

    async def _killed(self, trigger: Trigger, request: Request | None = None) -> ProcessSignalled:
        """A new target is killed at the trigger's moment; what told of the signal."""
        self._targets += 1
        target = await self.stack.processes.start(f"target-{self._targets}", _TARGET)
        await asyncio.sleep(0.01)  # a run starts nothing while it waits for a moment: let that be over
        self.nemesis.arm([trigger.inject(kill(named(target.name)))])
        if request is not None:
            await self.stack.client.send(request, index=self._requests)
        else:
            os.write(self._line_please, b".")
        assert (await target.exited(10)).signal == "SIGKILL"
        await self.nemesis.settled(deadline_s=10)
        return next(self.history.select(ProcessSignalled, source=target.name))


class _Peer:
    """A worker that writes to a file, and two ways to look at it."""

    def __init__(self, folder: Path, target: int) -> None:
        self._target = target
        self._path = folder / "peer.log"
        noise = random.Random(3).randbytes(60).hex().encode()  # noqa: S311 - noise
        self._path.write_bytes((b"2026-01-31T12:00:00Z DEBUG " + noise + b"\n") * (20_000_000 // 148))

    def poll(self, samples: int) -> list[float]:
        """Milliseconds, by a look at what is new each 100 ms; a line that came with others counts from its own write."""
        offset, found = self._path.stat().st_size, []
        with self._writing(samples):
            while len(found) < samples:
                time.sleep(0.1)
                with self._path.open("rb") as file:
                    file.seek(offset)
                    found += self._hits(file.read())
                    offset = file.tell()
        return found

    def reread(self, samples: int) -> list[float]:
        """Milliseconds, by reading the whole file each 5 ms."""
        seen, found = self._path.read_bytes().count(b"New Request ID: "), []
        with self._writing(samples):
            while len(found) < samples:
                time.sleep(0.005)
                hits = [line for line in self._path.read_bytes().splitlines() if b"New Request ID: " in line]
                found += self._hits(b"\n".join(hits[seen:]))
                seen = len(hits)
        return found

    def floor(self, samples: int) -> list[float]:
        """Milliseconds, by a blocking read of the worker's pipe."""
        found: list[float] = []
        reading, writing = os.pipe()
        with self._writing(samples, writing):
            while len(found) < samples:
                found += self._hits(os.read(reading, 65_536))
        os.close(reading)
        os.close(writing)
        return found

    def _hits(self, data: bytes) -> list[float]:
        """Signal the target for each line, and how late that is."""
        found = []
        for line in data.splitlines():
            written = line.partition(b"New Request ID: ")[2]
            if written:
                os.kill(self._target, signal.SIGCONT)
                found.append((time.monotonic_ns() - int(written)) / 1e6)
        return found

    @contextmanager
    def _writing(self, lines: int, pipe: int | None = None) -> Iterator[None]:
        """The worker writes to a pipe, or, less often, to the log file, so that each line meets a look of its own."""
        argv = [sys.executable, "-I", "-S", "-c", _WORKER, *(("0.11", "0.19") if pipe is None else ("0.005", "0.02"))]
        with (
            self._path.open("ab") as log,
            subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=log if pipe is None else pipe) as worker,
        ):
            assert worker.stdin is not None
            worker.stdin.write(b"." * lines)
            worker.stdin.close()
            yield


async def _measure(folder: Path, rounds: int, samples: int, peer_samples: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {
        name: [] for name in ("log_line", "log_line_read", "token", "poll", "reread", "floor")
    }
    held, line_please = os.pipe()
    with _sse_server() as url, History(folder / "history.jsonl") as history:
        plan = Plan(launches=[_worker(held)], url=url, model="m", ready=log_event("ready"), count=bool, exact=False)
        async with Processes(history, folder) as processes:
            stack = RunningStack(plan, history, processes, idle_s=30, seed=1, redactor=Redactor())
            await stack.start(deadline_s=20)
            ours, peer = _Ours(history, stack, line_please), _Peer(folder, stack["worker"].pid)
            for _ in range(rounds):
                found["log_line"] += [await ours.log_line() for _ in range(samples)]
                found["token"] += [await ours.token() for _ in range(samples)]
                for name, look in (("poll", peer.poll), ("reread", peer.reread)):
                    found[name] += await asyncio.to_thread(look, peer_samples)
                found["floor"] += await asyncio.to_thread(peer.floor, samples)
            found["log_line_read"] = ours.read_ms
    os.close(held)
    os.close(line_please)
    return found


def main() -> None:
    figures = Figures(__doc__)
    rounds, samples, peer_samples = (1, 100, 10) if figures.quick else (4, 150, 10)
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(_measure(Path(folder), rounds, samples, peer_samples))
    peers = {
        "poll": "a look at the log file each 100 ms",
        "reread": "the whole log file, 20 MB, read each 5 ms",
        "floor": "a blocking read of the pipe, and the signal",
    }
    for name in ("log_line", "log_line_read", "token"):
        for q, bound in ((0.5, ""), (0.99, "value <= 2")):
            value = quantile(found[name], q)
            for peer, what in peers.items():
                figures.tell(
                    f"trigger/{name}_to_signal_p{q * 100:g}",
                    value,
                    "ms",
                    n=len(found[name]),
                    bound=bound,
                    peer=what,
                    peer_value=quantile(found[peer], q),
                )
    figures.end()


if __name__ == "__main__":
    main()
