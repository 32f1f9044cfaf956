"""What a client's going away costs: how soon the engine has given up, and a storm of clients of which half leave.

The way is the whole: the client closes its socket in mid-stream, the frontend notices, tells the worker, that tells its
engine, and when the engine has let go the worker says so in a line that names the request; its read is the end. On
``dynamo-sim`` the frontend and the runtime between are the released Dynamo's. Requests come one after the other; what the
machine itself takes is told by a socket on loopback: from its close to the peer's read of that.
"""

import asyncio
import resource
import socket
import tempfile
import time
from pathlib import Path

from _figures import Figures, quantile

from ftharness.client import completion
from ftharness.history import Event, History, Log, RequestSent, read_history
from ftharness.scenario import Scenario
from ftharness.scenario.library import find
from ftharness.scenario.runner import Cell, Run, run_cell
from ftharness.stack import NotAvailable, aggregated, find_stack

_TOKENS = 5  # read before the client leaves


async def _close_to_abort(stack: str, folder: Path, samples: int) -> list[float]:
    """Milliseconds, one sample a request."""
    kind = find_stack(stack)
    scenario = Scenario(name="benchmark/cancellation", topology=aggregated(workers=1), workload=[])
    with History(folder / "history.jsonl") as history:
        run = Run(Cell(scenario=scenario, stack=stack), kind, folder, history, lambda _: None)
        try:
            await run.launch()
            await run.begin_faults()
            found = [await _one(run, history) for _ in range(samples)]
            run.ended("complete")
        finally:
            await run.teardown()
    return found


async def _one(run: Run, history: History) -> float:
    stream = await run.send(completion(max_tokens=1_000))
    await stream.token(_TOKENS)

    def given_up(event: Event) -> bool:
        return (
            isinstance(event, Log)
            and event.event == "request_aborted"
            and event.captures.get("request", "").startswith(stream.id)
        )

    waiting = asyncio.ensure_future(history.wait_for(given_up, deadline_s=10, what="the abort", past=False))
    await asyncio.sleep(0)  # it listens now
    left = await stream.disconnect()
    assert left is not None
    aborted = await waiting
    return (aborted.t - (left.at - history.start_ns)) / 1e6


async def _floor(samples: int) -> list[float]:
    """Milliseconds from a close to its read at the other end, between two sockets of this loop."""
    found: list[float] = []
    for _ in range(samples):
        read: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def serve(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, read: asyncio.Future[int] = read
        ) -> None:
            await reader.read()
            read.set_result(time.monotonic_ns())
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        client = socket.create_connection(server.sockets[0].getsockname())
        await asyncio.sleep(0.001)  # it is accepted
        at = time.monotonic_ns()
        client.close()
        found.append((await read - at) / 1e6)
        server.close()
    return found


async def _storm(folder: Path) -> tuple[int, float, float]:
    """Requests, the rate at which they came (a second), and this process's CPU seconds for all of the run.

    Raises:
        SystemExit: It did not pass: then its figures mean nothing.
    """
    (scenario,) = find(["cancellation/storm"])
    before = resource.getrusage(resource.RUSAGE_SELF)
    record = await run_cell(Cell(scenario=scenario, stack="sim"), find_stack("sim"), folder)
    after = resource.getrusage(resource.RUSAGE_SELF)
    if record.verdict != "pass":
        raise SystemExit(f"cancellation/storm: {record.verdict}: {record.reason}")
    sent = [e.t for e in read_history(folder / "history.jsonl") if isinstance(e, RequestSent) and not e.control]
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return len(sent), (len(sent) - 1) / ((max(sent) - min(sent)) / 1e9), cpu


def main() -> None:
    figures = Figures(__doc__)
    samples = 50 if figures.quick else 300
    floor = asyncio.run(_floor(samples))
    for stack in ("sim", "dynamo-sim"):
        try:
            find_stack(stack).version(None)
        except NotAvailable:
            continue  # as the figures of the command line do
        with tempfile.TemporaryDirectory() as folder:
            found = asyncio.run(_close_to_abort(stack, Path(folder), samples))
        for q in (0.5, 0.99):
            name = f"cancellation/close_to_abort_{stack}_p{q * 100:g}"
            peer, value = "a close on loopback to its read", quantile(floor, q)
            figures.tell(name, quantile(found, q), "ms", n=len(found), peer=peer, peer_value=value)
    with tempfile.TemporaryDirectory() as folder:
        count, rate, cpu = asyncio.run(_storm(Path(folder)))
    figures.tell("cancellation/storm_rate", rate, "requests/s", n=count)
    figures.tell("cancellation/storm_client_cpu", cpu, "s", n=count)
    figures.end()


if __name__ == "__main__":
    main()
