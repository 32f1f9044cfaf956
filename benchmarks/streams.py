"""500 streams of 20 tokens a second, opened over one second, read by one client process.

Ours is the harness's own client with a history on disk: HTTP, server-sent events, JSON and an event for each token. The
peer is a bare asyncio protocol that stamps each read and counts events. Both read the same server (``_sse_server.py``)
in turn, each in a process of its own, whose CPU time is told by the kernel.
"""

import asyncio
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from _figures import Figures, cpu_seconds, median, quantile

STREAMS, SPEED = 500, 20
_SERVER = Path(__file__).with_name("_sse_server.py")


class _Bare(asyncio.Protocol):
    """Sends a request, stamps what comes, and looks at none of it."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.ended = asyncio.get_running_loop().create_future()
        self.read_ns: list[int] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if count := data.count(b"\ndata: {"):
            self.read_ns += [time.monotonic_ns()] * count

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(exc)


async def _bare(port: int, tokens: int) -> list[list[int]]:
    body = json.dumps({"model": "m", "prompt": "Once upon a time", "max_tokens": tokens, "stream": True}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    loop = asyncio.get_running_loop()

    async def one(index: int) -> list[int]:
        await asyncio.sleep(index / STREAMS)  # the schedule of the load
        _, stream = await loop.create_connection(lambda: _Bare(head + body), "127.0.0.1", port)
        await stream.ended
        return stream.read_ns

    return await asyncio.gather(*(one(index) for index in range(STREAMS)))


async def _ours(port: int, tokens: int, folder: Path) -> list[list[int]]:
    from ftharness.client import Client, completion  # noqa: PLC0415 - the bare reader does without
    from ftharness.history import History, RequestChunk, RequestFinished  # noqa: PLC0415

    with History(folder / "history.jsonl") as history:
        client = Client(history, f"http://127.0.0.1:{port}", "m")
        await client.send_all([completion(max_tokens=tokens, at_s=index / STREAMS) for index in range(STREAMS)])
        ends = [event.outcome for event in history.select(RequestFinished)]
        assert ends == ["success"] * STREAMS, set(ends)
        read_ns: dict[str, list[int]] = defaultdict(list)
        for chunk in history.select(RequestChunk):
            read_ns[chunk.request] += [chunk.t] * chunk.tokens
    return list(read_ns.values())


def _read(who: str, port: int, tokens: int) -> None:
    """In a process of its own: read all streams, print what it took."""
    with tempfile.TemporaryDirectory() as folder:
        before, began = cpu_seconds(), time.perf_counter()
        reading = _bare(port, tokens) if who == "bare" else _ours(port, tokens, Path(folder))
        reads = asyncio.run(reading)
        wall_s, cpu_s = time.perf_counter() - began, cpu_seconds() - before
    assert [len(read) for read in reads] == [tokens] * STREAMS, sorted({len(read) for read in reads})
    gaps = [(b - a) / 1e6 for read in reads for a, b in itertools.pairwise(read)]
    print(json.dumps({"wall": wall_s, "cpu": cpu_s, "gap": quantile(gaps, 0.99)}))


def main() -> None:
    figures = Figures(__doc__)
    seconds, repeats = (2, 1) if figures.quick else (8, 3)
    found: dict[str, dict[str, list[float]]] = {who: defaultdict(list) for who in ("ours", "bare")}
    with subprocess.Popen(
        [sys.executable, str(_SERVER), str(SPEED)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        for repeat in range(repeats):
            for who in ("ours", "bare")[:: 1 if repeat % 2 else -1]:
                argv = [sys.executable, __file__, "--read", who, port, str(seconds * SPEED)]
                said = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
                for name, value in said.items():
                    found[who][name].append(value)
        server.stdin.close()
    for name, unit, bound in (
        ("wall", "s", "ratio <= 1.05"),
        ("gap", "ms", "difference <= 20"),
        ("cpu", "s", "ratio <= 3"),
    ):
        figures.tell(
            f"streams/{name}{'_p99' if name == 'gap' else ''}",
            median(found["ours"][name]),
            unit,
            n=repeats,
            bound=bound,
            peer="bare asyncio protocol",
            peer_value=median(found["bare"][name]),
        )
    figures.end()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--read"]:
        _read(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
