"""What the coordinator's tests run in workers: functions of a module, so that a spawned process finds them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ftharness.coordinator import Reports, RuntimeConfig


class OutOfMemoryError(RuntimeError):
    """By the name of torch's."""


class AtBatchError(RuntimeError):
    def __init__(self, message: str, batch_idx: int) -> None:
        super().__init__(message)
        self.batch_idx = batch_idx


def succeeds(rank: int, world_size: int, results_queue: Reports) -> None:
    results_queue.put({"rank": rank, "status": "complete"})


def reports_device(rank: int, world_size: int, results_queue: Reports) -> None:
    """The mask that it sees, and the one that was there before anything of ours was imported."""
    at_exec = dict(
        pair.split("=", 1) for pair in Path("/proc/self/environ").read_text().split("\0") if "=" in pair
    )  # fmt: skip
    results_queue.put(
        {
            "rank": rank,
            "now": os.environ["CUDA_VISIBLE_DEVICES"],
            "at_exec": at_exec["CUDA_VISIBLE_DEVICES"],
            "worker": results_queue.attempt.worker,
        }
    )


def reports_args(rank: int, world_size: int, results_queue: Reports, *args: Any) -> None:
    results_queue.put({"rank": rank, "world_size": world_size, "args": args})


def fails_at(rank: int, world_size: int, results_queue: Reports, failing: int) -> None:
    """One rank fails, by report and by exit status."""
    if rank == failing:
        results_queue.put({"rank": rank, "status": "failed", "error": "made to fail"})
        sys.exit(1)
    results_queue.put({"rank": rank, "status": "complete"})


def never_ends(rank: int, world_size: int, results_queue: Reports) -> None:
    results_queue.put({"rank": rank, "status": "running"})
    time.sleep(600)


def ends_when_told(rank: int, world_size: int, results_queue: Reports, folder: str, takes_s: float) -> None:
    """As a worker should: on SIGTERM it takes its time to write what it has, and exits with 143."""

    def checkpoint(_: int, __: object) -> None:
        told = time.monotonic()
        time.sleep(takes_s)
        Path(folder, f"told_{rank}").write_text(str(told))
        sys.exit(143)

    signal.signal(signal.SIGTERM, checkpoint)
    Path(folder, f"pid_{rank}").write_text(str(os.getpid()))
    results_queue.put({"rank": rank, "status": "running"})
    time.sleep(600)


def says_much_when_told(rank: int, world_size: int, results_queue: Reports, folder: str, takes_s: float) -> None:
    """Each SIGTERM leaves a letter in its file; at the first it says 2,000 things, and ends the later the higher its rank is."""
    told, tell = os.pipe()

    def note(_: int, __: object) -> None:
        with Path(folder, f"told_{rank}").open("a", encoding="utf-8") as file:
            file.write("T")
        os.write(tell, b"T")

    signal.signal(signal.SIGTERM, note)
    results_queue.put({"rank": rank, "status": "running", "number": 0})
    os.read(told, 1)
    for number in range(1, 2_001):
        results_queue.put({"rank": rank, "status": "running", "number": number})
    time.sleep(takes_s * rank)
    os._exit(143)


def will_not_end(rank: int, world_size: int, results_queue: Reports, folder: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(folder, f"pid_{rank}").write_text(str(os.getpid()))
    results_queue.put({"rank": rank, "status": "running"})
    time.sleep(600)


def fails_as(
    rank: int, world_size: int, results_queue: Reports, how: dict[int, str | list[str]], times: int = 99
) -> None:
    """Each rank fails in its way, or ways, one an attempt, for its first attempts; then it is done."""
    attempt = results_queue.attempt
    results_queue.put({"rank": rank, "attempt": attempt, "device": os.environ["CUDA_VISIBLE_DEVICES"]})
    ways = how.get(rank, [])
    ways = ways if isinstance(ways, list) else [ways] * times
    if attempt.number <= len(ways):
        fail(ways[attempt.number - 1], results_queue)
    results_queue.put({"rank": rank, "status": "complete"})


def fail(how: str, reports: Reports) -> None:  # noqa: C901 - a list of ways
    match how:
        case "143":
            sys.exit(143)
        case "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        case "says SIGTERM":
            reports.put({"status": "failed", "error_message": "Received SIGTERM, saving"})
            sys.exit(1)
        case "raises oom":
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        case "says oom":
            reports.put({"status": "failed", "error": "cuda_oom"})
            sys.exit(1)
        case "says oom, SIGKILL":
            reports.put({"status": "failed", "error_type": "cuda_oom"})
            os.kill(os.getpid(), signal.SIGKILL)
        case "raises CUDA error":
            raise AtBatchError("CUDA error: device-side assert triggered", 3)
        case "says circuit breaker":
            reports.put({"status": "failed", "circuit_breaker": True, "batch_idx": 3})
            sys.exit(1)
        case "SIGSEGV at a batch":
            reports.put({"status": "running", "batch_idx": 3})
            os.kill(os.getpid(), signal.SIGSEGV)
        case "SIGSEGV":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        case "137":
            sys.exit(137)
        case "raises":
            raise ValueError("a network that is down, say")
        case "says failed, exits 0":
            reports.put({"status": "failed", "error": "gave up"})
            sys.exit(0)
        case _:
            raise AssertionError(how)
    raise AssertionError(f"{how}: it lives")


def has_poison(rank: int, world_size: int, results_queue: Reports, poison: dict[int, list[int]], folder: str) -> None:
    """Ten batches a shard; some batches kill whoever computes them, unless they are left out."""
    skipped = results_queue.attempt.skip_batches
    for batch in range(10):
        done = Path(folder, f"shard_{rank}_batch_{batch}")
        if done.exists() or batch in skipped:
            continue
        results_queue.put({"rank": rank, "status": "running", "batch_idx": batch})
        if batch in poison.get(rank, []):
            os.kill(os.getpid(), signal.SIGSEGV)
        done.write_text(f"{results_queue.attempt.worker}")
    results_queue.put({"rank": rank, "status": "complete", "skipped_batches": sorted(skipped)})


def breaks_on_device(rank: int, world_size: int, results_queue: Reports, broken: list[str], folder: str) -> None:
    """Ten batches a shard, of which a broken device does the first four."""
    device = os.environ["CUDA_VISIBLE_DEVICES"]
    for batch in range(10):
        done = Path(folder, f"shard_{rank}_batch_{batch}")
        if done.exists():
            continue
        if device in broken and batch >= 4:
            raise OSError("the device does not answer")
        done.write_text(device)


def dies_while_talking(rank: int, world_size: int, results_queue: Reports, number: int) -> None:
    """Rank 0 says more than a pipe holds, and gets a signal in the midst of it; the others just work."""
    if rank == 0:
        if results_queue.attempt.number == 1:
            pipe = results_queue._pipe.fileno()
            os.write(pipe, b"\0\0\0\0\0\0\x10\0" + b"half a report")
            os.kill(os.getpid(), number)
            time.sleep(60)
        return
    for n in range(200):
        results_queue.put({"rank": rank, "n": n, "text": "x" * 5000})


def leaves_a_child(rank: int, world_size: int, results_queue: Reports) -> None:
    """One that outlives it, and has inherited all its descriptors."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], close_fds=False)
    results_queue.put({"rank": rank, "child": child.pid})


def hangs_once(rank: int, world_size: int, results_queue: Reports, on_term: str) -> None:
    if results_queue.attempt.number == 1:
        if on_term == "ignores SIGTERM":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        elif on_term == "exits 0":
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        results_queue.put({"rank": rank, "status": "running"})
        time.sleep(600)


def reports_config(rank: int, world_size: int, results_queue: Reports, config: RuntimeConfig) -> None:
    results_queue.put({"rank": rank, "force_restart": config.force_restart})
    if results_queue.attempt.number < 3:
        sys.exit(143)


def says_something_odd(rank: int, world_size: int, results_queue: Reports) -> None:
    import types  # noqa: PLC0415

    module = types.ModuleType("only_here")
    exec("class Odd: pass", module.__dict__)  # noqa: S102 - a class that no other process has
    sys.modules["only_here"] = module
    results_queue.put({"odd": module.Odd()})
    results_queue.put({"rank": rank, "status": "complete"})


def eats_memory(rank: int, world_size: int, results_queue: Reports, group: str) -> None:
    """In a control group with little memory, until the kernel kills it."""
    if results_queue.attempt.number == 1:
        Path(group, "cgroup.procs").write_text(str(os.getpid()))
        eaten = [bytearray(1 << 20) for _ in range(256)]
        raise AssertionError(f"{len(eaten)} MB, and it lives")
