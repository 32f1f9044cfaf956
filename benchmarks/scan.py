"""How fast logs are scanned for a contract's events, by one core: all times are CPU times.

The log is made from a seed: a third plain, a third with colours, a third JSON lines, as serving stacks write them at debug
level; one line in a hundred means something. Every shipped contract is measured, and the slowest is the figure. Beside it,
in the same run: ``grep -E`` for the contract's literals, which only says which lines hit, and one ``re`` pattern after the
other over each read, which is how such scans are usually written, and which sees nothing behind colours or JSON.
"""

import itertools
import json
import os
import random
import re
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from _figures import Figures, cpu_seconds_of, median

from ftharness.logs import Contract, Scanner
from ftharness.logs.contract import SHIPPED, read_contract

READ = 64 * 1024  # what a full pipe gives
MB = 1e6
ONE_IN = 100

_NOISE = (
    (
        "INFO",
        "vllm.v1.metrics.loggers",
        "Engine 000: Avg prompt throughput: {f:.1f} tokens/s, Running: {i} reqs, Waiting: 0",
    ),
    ("INFO", "uvicorn.access", '127.0.0.1:{i} - "POST /v1/completions HTTP/1.1" 200 OK'),
    ("DEBUG", "dynamo_runtime::pipeline::network::tcp", "response stream frame id={h} bytes={i} window={f:.3f}"),
    (
        "DEBUG",
        "dynamo_llm::kv_router::scheduler",
        "Formula for worker_id={i} dp_rank=0 with {i} cached blocks: {f:.3f}",
    ),
    ("TRACE", "h2::codec::framed_write", "send frame=Data {{ stream_id: StreamId({i}), flags: (0x1: END_STREAM) }}"),
    ("DEBUG", "handlers.generate", "Request ID {h} yields token {i} of the batch"),
    ("WARN", "sglang.srt.managers.scheduler", "Decode batch. #running-req: {i}, #token: {i}, token usage: {f:.2f}"),
)
_MEANS = (
    ("DEBUG", "handlers.generate", "New Request ID: {h}"),
    ("DEBUG", "handlers.generate", "Decode Request ID: {h}"),
    ("DEBUG", "handlers._monitor_abort", "Aborted Request ID: {h}"),
    ("DEBUG", "handler_base.generate", "New SGLang Request ID: {h}"),
    (
        "WARN",
        "dynamo_llm::migration",
        "Stream disconnected... recreating stream... request_id={h} error=Disconnected: gone",
    ),
    ("DEBUG", "dynamo_runtime::pipeline::push_router", "selected worker=worker-1 request_id={h} attempt=0"),
)


def _line(kind: int, level: str, logger: str, message: str, at: int) -> str:
    stamp = f"2026-01-31T12:{at // 60_000_000 % 60:02d}:{at / 1_000_000 % 60:09.6f}Z"
    if kind == 0:
        return f"{stamp} {level:>5} {logger}: {message}\n"
    if kind == 1:
        text = re.sub(r"(\w+)=", "\x1b[3m\\1\x1b[0m\x1b[2m=\x1b[0m", message)
        return f"\x1b[2m{stamp}\x1b[0m \x1b[32m{level:>5}\x1b[0m \x1b[2m{logger}\x1b[0m\x1b[2m:\x1b[0m {text}\n"
    return json.dumps({"time": stamp, "level": level, "target": logger, "message": message, "line": at % 999}) + "\n"


def make_log(size: int, seed: int) -> bytes:
    """At least ``size`` bytes of log, whole lines; the same for the same seed."""
    rng = random.Random(seed)  # noqa: S311 - noise, not secrets
    lines, written, at = [], 0, 0
    while written < size:
        level, logger, message = rng.choice(_MEANS if rng.randrange(ONE_IN) == 0 else _NOISE)
        at += rng.randrange(2_000)
        values = {"h": f"{rng.getrandbits(128):032x}", "i": rng.randrange(65_536), "f": rng.random() * 1000}
        lines.append(_line(rng.randrange(3), level, logger, message.format(**values), at))
        written += len(lines[-1])
    return "".join(lines).encode()


def _pieces(log: bytes, size: int) -> list[bytes]:
    return [log[start : start + size] for start in range(0, len(log), size)]


def _scan(contract: Contract, reads: Iterable[bytes]) -> int:
    scanner, found = Scanner(contract), 0
    for at, data in enumerate(reads):
        for _ in scanner.feed(data, at):
            found += 1
    return found + sum(1 for _ in scanner.end(0))


def _one_pattern_at_a_time(contract: Contract, reads: Iterable[bytes]) -> None:
    patterns = [
        re.compile((pattern.regex or re.escape(pattern.literal)).encode())
        for event in contract.events.values()
        for pattern in event.pattern
    ]
    for data in reads:
        for pattern in patterns:
            for match in pattern.finditer(data):
                match.groupdict()


def _grep(contract: Contract, path: Path) -> None:
    literals = {re.escape(pattern.literal) for event in contract.events.values() for pattern in event.pattern}
    argv = ["grep", "-c", "-E", "|".join(sorted(literals)), str(path)]
    # Its count is read: grep notices when it writes to /dev/null, and stops at the first line.
    subprocess.run(argv, env={**os.environ, "LC_ALL": "C"}, check=True, stdout=subprocess.PIPE)


def _grown(contract: Contract, reads: list[bytes], total: int) -> tuple[float, float]:
    """MB/s over the first and the last quarter of ``total`` bytes, given to one scanner."""
    scanner, given, quarters = Scanner(contract), 0, [time.process_time()]
    for at, data in enumerate(itertools.cycle(reads)):
        for _ in scanner.feed(data, at):
            pass
        given += len(data)
        if given * 4 >= total * len(quarters):
            quarters.append(time.process_time())
            if given >= total:
                break
    return total / 4 / MB / (quarters[1] - quarters[0]), total / 4 / MB / (quarters[4] - quarters[3])


def main() -> None:
    figures = Figures(__doc__)
    log = make_log(16_000_000 if figures.quick else 64_000_000, seed=1)
    reads, size, passes = _pieces(log, READ), len(log) / MB, 3 if figures.quick else 5
    contracts = [read_contract(path) for path in sorted(SHIPPED.glob("*.toml"))]
    rates = {
        contract.backend: size / median([cpu_seconds_of(lambda c=contract: _scan(c, reads)) for _ in range(passes)])
        for contract in contracts
    }
    slowest = min(contracts, key=lambda contract: rates[contract.backend])
    ours = rates[slowest.backend]

    def tell(
        figure: str, value: float, peer: str = "", peer_value: float | None = None, bound: str = "value >= 250"
    ) -> None:
        figures.tell(f"scan/{figure}", value, "MB/s", n=passes, bound=bound, peer=peer, peer_value=peer_value)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        path.write_bytes(log)
        grep_s = median([cpu_seconds_of(lambda: _grep(slowest, path)) for _ in range(passes)])
    tell(f"slowest_contract_{slowest.backend}", ours, "grep -E for its literals", size / grep_s)
    part = reads[: len(reads) // 8]
    alone_s = cpu_seconds_of(lambda: _one_pattern_at_a_time(slowest, part))
    tell("slowest_contract", ours, "one re pattern after the other", sum(map(len, part)) / MB / alone_s)
    grown = 200_000_000 if figures.quick else 1_000_000_000
    first, last = _grown(slowest, reads, grown)
    tell(f"last_quarter_of_{grown // 1_000_000}_mb", last, "the first quarter", first, "ratio >= 0.9")
    small, long = _pieces(log, 4096), _pieces(b"x" * 10_000_000 + b" New Request ID: deep-inside\n", READ)
    for figure, pieces in (("reads_of_4_kib", small), ("line_of_10_mb", long)):
        rate = (
            sum(map(len, pieces))
            / MB
            / median([cpu_seconds_of(lambda p=pieces: _scan(slowest, p)) for _ in range(passes)])
        )
        tell(figure, rate, "the whole log in reads of 64 KiB", ours, "ratio >= 0.33")
    figures.end()


if __name__ == "__main__":
    main()
