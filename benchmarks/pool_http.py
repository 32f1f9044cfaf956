"""A lease taken and given back over HTTP: how many pairs of calls one core carries, and what of that is our own part.

`ftharness pool serve` runs in a process of its own with one simulated engine, logs to a file, and counts as it always does. One
client on one connection asks in turn, so that nothing waits in a queue; what is told is pairs a second of the server's CPU time,
which is what one core would carry, and pairs a second as the clock has it, client included.

The peer is the same server (uvicorn, the same parser) with an application that reads the call and answers a constant: what HTTP
itself costs here, in the same run, in turn. A second manager, whose engines are to survive it, writes each lease down meanwhile.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from _figures import ENVIRONMENT, Figures, median

_CONFIG = """
state_dir = "{folder}/state-{survive}"
engines_survive = {survive}
log_level = "info"
[[pool]]
id = "p"
engine = "sim"
slots_per_engine = 64
probe = {{ interval_s = 60.0 }}
"""
_CONSTANT = """
import asyncio, sys
from ftharness.pool.server import Server, listening, url_of

async def app(scope, receive, send):
    await receive()
    head = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"17")]}
    await send(head)
    await send({"type": "http.response.body", "body": b'{"id": "p-lease"}'})

async def main():
    sock = listening("127.0.0.1", 0)
    print(url_of(sock), flush=True)
    await Server(app).serve(sockets=[sock])

asyncio.run(main())
"""
_TICKS = os.sysconf("SC_CLK_TCK")


class Asked:
    """A server, and one connection to it."""

    def __init__(self, process: "subprocess.Popen[str]", url: str) -> None:
        self._pid = process.pid
        host, _, port = url.removeprefix("http://").rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = f"host: {host}:{port}\r\n".encode()

    def ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        """The body of an answer."""
        more = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body) if body else b""
        self._socket.sendall(f"{method} {path} HTTP/1.1\r\n".encode() + self._head + more + b"\r\n" + body)
        got = b""
        while b"\r\n\r\n" not in got:
            got += self._more()
        head, _, rest = got.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while len(rest) < length:
            rest += self._more()
        if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 201", b"HTTP/1.1 202")):
            raise RuntimeError(f"{method} {path}: {head[:40]!r} {rest!r}")
        return rest

    def cpu_s(self) -> float:
        """CPU time of the server's process."""
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def _more(self) -> bytes:
        got = self._socket.recv(65536)
        if not got:
            raise RuntimeError("the server has closed the connection")
        return got


@contextmanager
def _running(argv: list[str], log: Path) -> Iterator[Asked]:
    with (
        log.open("w") as file,
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=file, text=True, env=ENVIRONMENT) as process,
    ):
        assert process.stdout is not None
        try:
            yield Asked(process, process.stdout.readline().strip())
        finally:
            process.send_signal(signal.SIGTERM)


def _lease_and_release(asked: Asked) -> None:
    lease = json.loads(asked.ask("POST", "/v1/pools/p/leases", b'{"holder": "bench"}'))
    asked.ask("DELETE", f"/v1/pools/p/leases/{lease['id']}")


def _constant(asked: Asked) -> None:
    asked.ask("POST", "/v1/pools/p/leases", b'{"holder": "bench"}')
    asked.ask("DELETE", "/v1/pools/p/leases/0123456789ab-1")


def _empty(asked: Asked) -> None:
    """Have no engine outlive the benchmark."""
    asked.ask("POST", "/v1/pools/p/drain", b'{"deadline_ms": 0}')
    while json.loads(asked.ask("GET", "/v1/pools/p/health"))["engines"][0]["state"] != "stopped":
        time.sleep(0.05)


def _until_ready(asked: Asked) -> None:
    deadline = time.monotonic() + 60
    while not json.loads(asked.ask("GET", "/v1/pools/p/health"))["ready"]:
        if time.monotonic() > deadline:
            raise RuntimeError("the engine did not become ready")
        time.sleep(0.05)


def main() -> None:
    figures = Figures(__doc__)
    pairs, rounds = (2000, 3) if figures.quick else (4000, 9)
    rates: dict[str, list[tuple[float, float]]] = {"ours": [], "kept": [], "constant": []}
    with tempfile.TemporaryDirectory() as at:
        folder = Path(at)
        constant = [sys.executable, "-c", _CONSTANT]
        with (
            _running(_serve(folder, "false"), folder / "log") as ours,
            _running(_serve(folder, "true"), folder / "kept.log") as kept,
            _running(constant, folder / "peer.log") as peer,
        ):
            all_three = (
                ("ours", ours, _lease_and_release),
                ("kept", kept, _lease_and_release),
                ("constant", peer, _constant),
            )
            for asked in (ours, kept):
                _until_ready(asked)
            for _, asked, work in all_three:
                for _ in range(200):
                    work(asked)
            for place in range(rounds):
                for label, asked, work in all_three[:: 1 if place % 2 else -1]:
                    began, cpu = time.perf_counter(), asked.cpu_s()
                    for _ in range(pairs):
                        work(asked)
                    rates[label].append((pairs / (asked.cpu_s() - cpu), pairs / (time.perf_counter() - began)))
            _empty(kept)
    for label, name in (("ours", "lease_and_release"), ("kept", "lease_and_release_kept")):
        for place, (figure, bound) in enumerate((("core", "value >= 1500"), ("wall", ""))):
            figures.tell(
                f"pool/http_{name}_{figure}",
                median([one[place] for one in rates[label]]),
                "pairs/s",
                n=pairs * rounds,
                bound=bound,
                peer="the same server, a constant answer",
                peer_value=median([one[place] for one in rates["constant"]]),
            )
    figures.end()


def _serve(folder: Path, survive: str) -> list[str]:
    """A manager's command, whose engines survive it, or do not."""
    config = folder / f"survive-{survive}.toml"
    config.write_text(_CONFIG.format(folder=folder, survive=survive))
    return [sys.executable, "-m", "ftharness", "pool", "serve", "--config", str(config), "--port", "0"]


if __name__ == "__main__":
    main()
