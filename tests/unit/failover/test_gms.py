"""The name under which Dynamo's workers import their lock: over ours, for a system under test, and for nobody else."""

import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import ftharness
from ftharness.failover.lock import FlockFailoverLock

ROOT = Path(ftharness.__file__).parent
GMS = ROOT / "failover" / "gms"
# As a worker runs: without site-packages, a bare ``ftharness`` in the place of the real one.
BARE = f"""
import sys, types
bare = types.ModuleType("ftharness")
bare.__path__ = [{str(ROOT)!r}]
sys.modules["ftharness"] = bare
sys.path.append({str(GMS)!r})
"""


def ran(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", BARE + code], capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout.strip()


def test_the_harness_cannot_import_it() -> None:
    """Who installs the harness beside the real package gets the real one, and who has none gets none."""
    assert importlib.util.find_spec("gpu_memory_service") is None


def test_what_dynamo_imports_is_there_and_is_ours() -> None:
    """By each of the names that the workers of 1.4 to 1.6 use, and with the standard library alone."""
    code = """
from gpu_memory_service.failover_lock import FailoverLock, FailoverLockContended, FailoverLockError
from gpu_memory_service.failover_lock.interface import FailoverLock as Interface
from gpu_memory_service.failover_lock.flock import FlockFailoverLock
from gpu_memory_service.failover_lock.flock.lock import FlockFailoverLock as Module
from gpu_memory_service.failover_lock.failover_metrics import create_failover_metrics
from ftharness.failover import lock, metrics
assert issubclass(FlockFailoverLock, lock.FlockFailoverLock) and Module is FlockFailoverLock
assert FailoverLock is Interface is lock.FailoverLock and issubclass(FailoverLockContended, FailoverLockError)
assert create_failover_metrics is metrics.create_failover_metrics
print("ours")
"""
    assert ran(code) == "ours"


def test_a_holder_beats_where_the_environment_says_so(tmp_path: Path) -> None:
    """Dynamo's code names the path alone: whether it beats is said to the process."""
    code = f"""
import asyncio
from gpu_memory_service.failover_lock.flock import FlockFailoverLock
async def main():
    lock = FlockFailoverLock({str(tmp_path / "lock")!r})
    await lock.acquire(engine_id="engine-0")
    print((await lock.holder()).heartbeat_s)
asyncio.run(main())
"""
    assert ran(code) == "None"
    assert ran(code, FAILOVER_HEARTBEAT_S="0.25") == "0.25"


def test_the_lock_takes_what_dynamos_callers_give_it() -> None:
    """``acquire(engine_id=…)`` with ``poll_interval`` and ``timeout``."""
    assert {"engine_id", "poll_interval", "timeout"} <= set(inspect.signature(FlockFailoverLock.acquire).parameters)
