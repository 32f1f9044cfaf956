"""From a trigger's moment to its fault's signal.

The whole way of a real run: pipe or socket, scan or client, history, nemesis, process. A worker writes lines that hold
CLOCK_MONOTONIC, which all processes of a machine share; the fault is SIGINT to a second process, which says when it got
it. A token's moment is the read that brought it. The peers send the same signal to the same process, and notice the same
kind of line as other harnesses do: by a look at the new end of the log file each 100 ms, and by reading the whole file
(20 MB, as a worker's log is at debug level) each 5 ms. They take turns with ours.
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

from ftharness.client import completion
from ftharness.faults import Target, interrupt, named
from ftharness.history import History, Log, ProcessSignalled, RequestChunk
from ftharness.logs import load_contract
from ftharness.process import Process, Processes, Redactor, log_event
from ftharness.scenario import on_log, on_token
from ftharness.scenario.nemesis import Nemesis
from ftharness.scenario.trigger import Injection
from ftharness.stack import Plan, RunningStack
from ftharness.stack.plan import Launch

_SERVER = Path(__file__).with_name("_sse_server.py")
_SPEED = 200
# Writes a line that holds its time, at moments that nothing else knows, for as long as its standard input is open.
_WORKER = """
import os, random, select, sys, time
moments = random.Random(7)
os.write(1, b"Worker worker-1 is ready, serving m\\n")
while not select.select([0], [], [], moments.uniform(*map(float, sys.argv[1:])))[0]:
    os.write(1, b"2026-01-31T12:00:00Z DEBUG handlers.generate: New Request ID: %d\\n" % time.monotonic_ns())
"""
# Says when it got each SIGINT.
_TARGET = """
import os, signal, time
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
os.write(1, b"Worker target is ready, serving m\\n")
while signal.sigwait({signal.SIGINT}):
    os.write(1, b"Finished Request ID: %d\\n" % time.monotonic_ns())
"""
_TO_TARGET: Target = named("target")


def _launch(name: str, code: str, *arguments: str, fd: int | None = None) -> Launch:
    # A process of ours reads /dev/null: what is to hold the worker up is the write end of a pipe that we keep.
    opening = f"import os; os.dup2({fd}, 0)\n" if fd is not None else ""
    return Launch(
        name=name,
        role="aggregated",
        argv=[sys.executable, "-I", "-S", "-c", opening + code, *arguments],
        env=dict(os.environ),
        contract=load_contract("sim", ""),
        ready=[log_event("ready")],
        pass_fds=() if fd is None else (fd,),
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

    def __init__(self, history: History, stack: RunningStack) -> None:
        self.history = history
        self.stack = stack
        self.nemesis = Nemesis(stack, history, speed=_SPEED)
        self.handled_ms: list[float] = []
        self._requests = 0

    async def log_line(self) -> float:
        """Milliseconds from a line's write to the signal."""
        sent = await self._sent(on_log("request_received", source="worker").inject(interrupt(_TO_TARGET)))
        line = next(e for e in reversed(self.history.events[: sent.n]) if isinstance(e, Log) and e.source == "worker")
        written = int(line.captures["request"]) - self.history.start_ns
        return (sent.t - written) / 1e6

    async def token(self) -> float:
        """Milliseconds from the third token's read to the signal."""
        index, self._requests = self._requests, self._requests + 1
        sending = asyncio.create_task(self._sent(on_token(3, request=index).inject(interrupt(_TO_TARGET))))
        await asyncio.sleep(0)
        stream = await self.stack.client.send(completion(max_tokens=4), index=index)
        self.nemesis.follow(stream)
        sent = await sending
        await stream.finished()
        chunks = [event for event in self.history.select(RequestChunk, request=stream.id) if event.first == 2]
        return (sent.t - chunks[0].t) / 1e6

    async def _sent(self, injection: Injection) -> ProcessSignalled:
        self.nemesis.arm([injection])
        sent = await self.history.wait_for(
            lambda event: isinstance(event, ProcessSignalled) and event.reason == "fault", deadline_s=10, past=False
        )
        assert isinstance(sent, ProcessSignalled)
        got = await self.history.wait_for(
            lambda event: isinstance(event, Log) and event.source == "target" and event.t > sent.t, deadline_s=10
        )
        assert isinstance(got, Log)
        self.handled_ms.append((int(got.captures["request"]) - self.history.start_ns - sent.t) / 1e6)
        self.nemesis.disarm()
        return sent


class _Peer:
    """A worker that writes to a file, and two ways to look at it."""

    def __init__(self, folder: Path, target: Process) -> None:
        self._target = target
        self._path = folder / "peer.log"
        noise = random.Random(3).randbytes(60).hex().encode()  # noqa: S311 - noise
        self._path.write_bytes((b"2026-01-31T12:00:00Z DEBUG " + noise + b"\n") * (20_000_000 // 148))

    def poll(self, samples: int) -> list[float]:
        """Milliseconds, by a look at what is new each 100 ms; a line that came with others counts from its own write."""
        offset, found = self._path.stat().st_size, []
        with self._writing():
            while len(found) < samples:
                time.sleep(0.1)
                with self._path.open("rb") as file:
                    file.seek(offset)
                    found += self._hits(file.read())
                    offset = file.tell()
        return found[:samples]

    def reread(self, samples: int) -> list[float]:
        """Milliseconds, by reading the whole file each 5 ms."""
        seen, found = self._path.read_bytes().count(b"New Request ID: "), []
        with self._writing():
            while len(found) < samples:
                time.sleep(0.005)
                lines = self._path.read_text().splitlines()
                hits = [line for line in lines if "New Request ID: " in line]
                found += self._hits("\n".join(hits[seen:]).encode())
                seen = len(hits)
        return found[:samples]

    def _hits(self, data: bytes) -> list[float]:
        """Signal the target for each line, and how late that is."""
        found = []
        for line in data.splitlines():
            written = line.partition(b"New Request ID: ")[2]
            if written:
                os.kill(self._target.pid, signal.SIGINT)
                found.append((time.monotonic_ns() - int(written)) / 1e6)
        return found

    @contextmanager
    def _writing(self) -> Iterator[None]:
        argv = [sys.executable, "-I", "-S", "-c", _WORKER, "0.11", "0.19"]
        with self._path.open("ab") as file, subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=file) as worker:
            yield
            assert worker.stdin is not None
            worker.stdin.close()


async def _measure(folder: Path, rounds: int, samples: int, peer_samples: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in ("log_line", "token", "poll", "reread", "handled")}
    held, ours_end = os.pipe()
    with _sse_server() as url, History(folder / "history.jsonl") as history:
        launches = [_launch("worker", _WORKER, "0.005", "0.02", fd=held), _launch("target", _TARGET)]
        plan = Plan(launches=launches, url=url, model="m", ready=log_event("ready"), count=bool, exact=False)
        async with Processes(history, folder) as processes:
            stack = RunningStack(plan, history, processes, idle_s=30, seed=1, redactor=Redactor())
            await stack.start(deadline_s=20)
            ours, peer = _Ours(history, stack), _Peer(folder, processes["target"])
            for _ in range(rounds):
                found["log_line"] += [await ours.log_line() for _ in range(samples)]
                found["token"] += [await ours.token() for _ in range(samples)]
                for name, look in (("poll", peer.poll), ("reread", peer.reread)):
                    found[name] += await asyncio.to_thread(look, peer_samples)
            found["handled"] = ours.handled_ms
    os.close(held)
    os.close(ours_end)
    return found


def main() -> None:
    figures = Figures(__doc__)
    rounds, samples, peer_samples = (1, 100, 10) if figures.quick else (4, 250, 25)
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(_measure(Path(folder), rounds, samples, peer_samples))
    peers = {"poll": "a look at the log file each 100 ms", "reread": "the whole log file, 20 MB, read each 5 ms"}
    for name in ("log_line", "token"):
        for peer, what in peers.items():
            figures.tell(
                f"trigger/{name}_to_signal_p99",
                quantile(found[name], 0.99),
                "ms",
                n=len(found[name]),
                bound="value <= 2",
                peer=what,
                peer_value=quantile(found[peer], 0.99),
            )
        figures.tell(f"trigger/{name}_to_signal_p50", quantile(found[name], 0.5), "ms", n=len(found[name]))
    figures.tell("trigger/signal_to_target_p50", quantile(found["handled"], 0.5), "ms", n=len(found["handled"]))
    figures.end()


if __name__ == "__main__":
    main()
