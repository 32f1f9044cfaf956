"""What of our lock is its own, beside what every failover lock has to stand (test_conformance.py)."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import ftharness
from ftharness.failover.identity import Identity, myself
from ftharness.failover.lock import (
    FailoverLockContended,
    FailoverLockError,
    FailoverLockFenced,
    FlockFailoverLock,
    filesystem,
)
from ftharness.failover.slots import Slots

# Holds the lock, and says so; then waits for a line, and for each does what it says.
_HOLDER = """
import asyncio, sys
from ftharness.failover.lock import FlockFailoverLock
async def main():
    lock = FlockFailoverLock(sys.argv[1])
    await lock.acquire("engine-0")
    print("held", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
asyncio.run(main())
"""


@contextlib.contextmanager
def _started(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A holder, or one that waits; killed at the end, whatever else fails."""
    argv = [sys.executable, "-c", _HOLDER, str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    with _started(path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


async def waiter_of(path: Path) -> int:
    """The pid of the process that blocks in flock on a file for this one."""
    inode = str(path.stat().st_ino)
    while True:
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if fields[1] == "->" and fields[-3].rpartition(":")[2] == inode:
                return int(fields[5])
        await asyncio.sleep(0.005)


async def test_the_holder_is_told(tmp_path: Path) -> None:
    """Its process, its token, and whether it really holds: yes while it lives, no once it is gone, whatever the file says."""
    path = tmp_path / "lock"
    lock = FlockFailoverLock(path)
    assert await lock.holder() is None
    with holder(path) as process:
        seen = await lock.holder()
        assert seen is not None
        assert (seen.engine_id, seen.identity.pid, seen.token, seen.holds) == ("engine-0", process.pid, 1, True)
        assert seen.identity.boot_id == myself().boot_id
    seen = await lock.holder()
    assert seen is not None
    assert seen.holds is False
    await lock.acquire("engine-1")
    seen = await lock.holder()
    assert seen is not None
    assert (seen.identity, seen.token, seen.holds) == (myself(), 2, True)
    lock.release_nowait()
    seen = await lock.holder()
    assert seen is not None
    assert seen.holds is False


# Waits for the lock, and ends as soon as it has it; then says which children of its own nobody has waited for.
_BRIEF = """
import asyncio, atexit, os, sys
def left():
    try:
        print(os.waitpid(-1, os.WNOHANG))
    except ChildProcessError:
        print("none")
atexit.register(left)
from ftharness.failover.lock.flock.waiting import until_locked
file = os.open(sys.argv[1], os.O_RDWR)
print(asyncio.run(until_locked(file, poll_interval=60, deadline=None, replaced=lambda: False)))
"""


async def test_who_ends_as_soon_as_it_has_the_lock_leaves_no_process_that_nobody_waited_for(tmp_path: Path) -> None:
    """The loop that was to wait for the one that it killed is over by then."""
    path = tmp_path / "lock"
    with holder(path) as process:
        brief = await asyncio.create_subprocess_exec(sys.executable, "-c", _BRIEF, str(path), stdout=subprocess.PIPE)
        await waiter_of(path)
        process.kill()
        said, _ = await asyncio.wait_for(brief.communicate(), 30)
    assert said.split() == [b"True", b"none"]


async def test_a_holder_elsewhere_is_not_judged(tmp_path: Path) -> None:
    """A pid of another namespace, or boot, names nobody here: whether that one holds cannot be seen."""
    path = tmp_path / "lock"
    lock = FlockFailoverLock(path)
    await lock.acquire("engine-0")
    for other in (myself()._replace(namespace=1), myself()._replace(boot_id="another")):
        Slots(path.with_name("lock.holder")).replace(partial(_by, other))
        seen = await lock.holder()
        assert seen is not None
        assert (seen.identity, seen.holds) == (other, None)
    lock.release_nowait()


def _by(identity: Identity, last: dict[str, Any] | None, whole: bool) -> dict[str, Any]:
    assert last is not None
    return {**last, "identity": identity}


async def test_a_lost_count_goes_on_upwards(tmp_path: Path) -> None:
    """With the file of the count gone, or garbage, a token is greater than all before: it starts from the time."""
    path = tmp_path / "lock"
    lock = FlockFailoverLock(path)
    tokens = []
    for spoil in (lambda _: None, Path.unlink, lambda beside: beside.write_bytes(b"?" * 2048), lambda _: None):
        tokens.append(await lock.acquire("engine-0"))
        lock.release_nowait()
        spoil(path.with_name("lock.holder"))
    assert tokens == sorted(set(tokens))
    assert tokens[0] == 1


async def test_a_guard_refuses_who_has_lost(tmp_path: Path) -> None:
    """Also when a holder lives whose lock file was taken from it: the lock cannot help that, the token does."""
    path = tmp_path / "lock"
    first, second = FlockFailoverLock(path), FlockFailoverLock(path)
    await first.acquire("engine-0")
    first.guard(first.token)
    path.unlink()
    await second.acquire("engine-1")
    assert first.held
    with pytest.raises(FailoverLockFenced, match=r"token 1 is not the last, which is .* by engine-1"):
        second.guard(first.token)
    second.guard(second.token)
    first.release_nowait()
    second.release_nowait()


async def test_nobody_ever_had_it_is_no_token(tmp_path: Path) -> None:
    """0 is what an object has before it acquires: no guard lets it pass, not even before anyone has acquired."""
    lock = FlockFailoverLock(tmp_path / "lock")
    with pytest.raises(FailoverLockFenced, match="nobody is known to have had it"):
        lock.guard(lock.token)
    await lock.acquire("engine-0")
    lock.guard(lock.token)
    lock.release_nowait()


@pytest.mark.parametrize("value", [{"token": 7}, {"token": "many", "identity": 3}])
async def test_a_record_of_another_version(tmp_path: Path, value: dict[str, Any]) -> None:
    """Is an error that shows it, where it is read; an acquisition goes on, with a greater token than any."""
    path = tmp_path / "lock"
    lock = FlockFailoverLock(path)
    Slots(path.with_name("lock.holder")).write(value)
    with pytest.raises(FailoverLockError, match="as no version of ours does"):
        await lock.holder()
    token = await lock.acquire("engine-0")
    assert token > 7
    holder = await lock.holder()
    assert holder is not None
    assert holder.token == token
    lock.release_nowait()


async def test_what_a_later_version_says_more_is_left_alone(tmp_path: Path) -> None:
    """A record with one more field is understood."""
    path = tmp_path / "lock"
    lock = FlockFailoverLock(path)
    await lock.acquire("engine-0")
    Slots(path.with_name("lock.holder")).replace(lambda last, _: {**(last or {}), "of_a_later_version": True})
    holder = await lock.holder()
    assert holder is not None
    assert holder.holds
    lock.release_nowait()


@pytest.mark.parametrize("spoil", ["the newest value", "the boot"])
async def test_what_is_not_certain_about_the_count_makes_it_jump(tmp_path: Path, spoil: str) -> None:
    """A damaged value, or one that an earlier boot left and that may not be the last: the token is greater all the same."""
    path = tmp_path / "lock"
    beside = path.with_name("lock.holder")
    lock = FlockFailoverLock(path)
    for _ in range(4):
        await lock.acquire("engine-0")
        lock.release_nowait()
    before = lock.token
    if spoil == "the boot":
        Slots(beside).replace(partial(_by, myself()._replace(boot_id="an earlier one")))
    else:
        text = bytearray(beside.read_bytes())
        text[text.index(b'"token":4') + 8] ^= 1
        beside.write_bytes(text)
    assert await lock.acquire("engine-0") > before + 1_000
    assert await FlockFailoverLock(path).owner() == "engine-0"
    lock.release_nowait()


async def test_a_beating_lock_is_released_and_acquired_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each hold has a heartbeat of its own, which ends with it; and what is deleted meanwhile its holder writes anew."""
    path = tmp_path / "lock"
    lock = FlockFailoverLock(path, heartbeat_s=0.01)
    for _ in range(5):
        await lock.acquire("engine-0")
        await asyncio.sleep(0.03)
        lock.release_nowait()
    await lock.acquire("engine-0")
    path.with_name("lock.holder").unlink()
    path.with_name("lock.heartbeat").unlink()
    await asyncio.sleep(0.1)
    lock.guard(lock.token)
    holder = await lock.holder()
    assert holder is not None
    assert holder.holds
    lock.release_nowait()
    assert [one.message for one in caplog.records if one.levelname != "INFO"] == []


@pytest.mark.parametrize("name", ["lock.holder", "lock.heartbeat"])
async def test_what_cannot_be_written_is_found_out_before_the_wait(tmp_path: Path, name: str) -> None:
    """While another holds it, not when it is this one's turn; and the error names the file."""
    path = tmp_path / "lock"
    with holder(path):
        place = path.with_name(name)
        place.unlink(missing_ok=True)
        place.mkdir()
        with pytest.raises(FailoverLockError, match=f"cannot write .*{name}.*Is a directory"):
            await FlockFailoverLock(path, heartbeat_s=1).acquire("engine-1", timeout=5)


async def test_a_waiting_process_that_is_killed_is_replaced(tmp_path: Path) -> None:
    """Who kills it costs the takeover one poll interval at most."""
    path = tmp_path / "lock"
    lock = FlockFailoverLock(path)
    with holder(path) as process:
        waiting = asyncio.ensure_future(lock.acquire("engine-1", poll_interval=0.05))
        first = await asyncio.wait_for(waiter_of(path), 10)
        os.kill(first, signal.SIGKILL)
        while (second := await asyncio.wait_for(waiter_of(path), 10)) == first:
            await asyncio.sleep(0.005)
        assert second != first
        process.kill()
        await asyncio.wait_for(waiting, 10)
    lock.release_nowait()


async def test_without_a_waiting_process_it_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where no process can be started the lock is asked for at intervals, and a warning says so."""
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    path = tmp_path / "lock"
    first, second = FlockFailoverLock(path), FlockFailoverLock(path)
    await first.acquire("engine-0")
    waiting = asyncio.ensure_future(second.acquire("engine-1", poll_interval=0.01))
    assert not (await asyncio.wait([waiting], timeout=0.1))[0]
    first.release_nowait()
    await asyncio.wait_for(waiting, 10)
    assert "asking from time to time" in caplog.text
    second.release_nowait()


async def test_who_waits_and_is_killed_takes_its_waiting_process_along(tmp_path: Path) -> None:
    """Within moments, also when the lock stays held."""
    path = tmp_path / "lock"
    lock = FlockFailoverLock(path)
    await lock.acquire("engine-0")
    with _started(path) as other:
        pidfd = os.pidfd_open(await asyncio.wait_for(waiter_of(path), 10))
        other.kill()
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(pidfd, ended.set_result, None)
        await asyncio.wait_for(ended, 5)
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
    lock.release_nowait()


async def test_a_forked_child_can_neither_release_nor_keep(tmp_path: Path) -> None:
    """A release in it is nothing; the parent holds, and when the parent lets go it is free though the child lives."""
    path = tmp_path / "lock"
    lock, other = FlockFailoverLock(path), FlockFailoverLock(path)
    await lock.acquire("engine-0")
    told, tells = os.pipe()
    child = os.fork()
    if child == 0:
        held = lock.held
        lock.release_nowait()
        os.write(tells, b"y" if held else b"n")
        signal.pause()
    assert os.read(told, 1) == b"n"
    with pytest.raises(FailoverLockContended):
        await other.acquire("engine-1", timeout=0)
    lock.release_nowait()
    await other.acquire("engine-1", timeout=0)
    other.release_nowait()
    os.kill(child, signal.SIGKILL)
    await asyncio.to_thread(os.waitpid, child, 0)
    for fd in (told, tells):
        os.close(fd)


@pytest.mark.parametrize("mount", ["nfs4 server:/x rw", "fuse.sshfs host:/ rw", "ceph 10.0.0.1:/ rw"])
async def test_a_network_filesystem_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mount: str) -> None:
    """With the reason, and what to do; unless told otherwise. No such filesystem can be mounted here: the table is made up."""
    table = tmp_path / "mountinfo"
    table.write_text(
        f"22 1 254:0 / / rw - ext4 /dev/vda rw\n90 22 0:44 / {tmp_path}/a\\040b rw,relatime shared:7 - {mount}\n"
    )
    monkeypatch.setattr(filesystem, "_MOUNTS", table)
    folder = tmp_path / "a b"
    folder.mkdir()
    with pytest.raises(FailoverLockError, match="a network filesystem: a flock there may be lost"):
        await FlockFailoverLock(folder / "lock").acquire("engine-0", timeout=0)
    for allowed in (FlockFailoverLock(folder / "lock", allow_network=True), FlockFailoverLock(tmp_path / "lock")):
        await allowed.acquire("engine-0", timeout=0)
        allowed.release_nowait()


@pytest.mark.parametrize(
    "path, message",
    [
        ("missing/lock", "its folder has to be there"),
        ("folder", "Is a directory"),
        ("fifo", "is not a file"),
    ],
)
async def test_what_cannot_be_a_lock_file(tmp_path: Path, path: str, message: str) -> None:
    """Is an error that names it."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(FailoverLockError, match=message) as caught:
        await FlockFailoverLock(tmp_path / path).acquire("engine-0", timeout=0)
    assert str(tmp_path / path) in str(caught.value)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"engine_id": ""}, "1 to 253 bytes"),
        ({"engine_id": "x" * 254}, "1 to 253 bytes"),
        ({"engine_id": "engine-0", "poll_interval": 0}, "more than 0 seconds"),
    ],
)
async def test_what_cannot_be_acquired_with(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    """Is refused before anything is touched."""
    with pytest.raises(ValueError, match=message):
        await FlockFailoverLock(tmp_path / "lock").acquire(**arguments)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_it_needs_the_standard_library_only() -> None:
    """All of it is importable without site-packages, below a bare ``ftharness``: it runs inside other people's engines."""
    root = Path(ftharness.__file__).parent
    modules = [
        ".".join(("ftharness", *file.relative_to(root).with_suffix("").parts))
        for file in sorted((root / "failover").rglob("*.py"))
        if "gms" not in file.parts and file.name not in ("__init__.py", "__main__.py")
    ]
    assert len(modules) > 10
    code = (
        "import importlib, sys, types; bare = types.ModuleType('ftharness'); bare.__path__ = [sys.argv[1]]; "
        "sys.modules['ftharness'] = bare; [importlib.import_module(name) for name in sys.argv[2:]]"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(root), *modules], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
