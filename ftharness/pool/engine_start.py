"""How a manager comes by an engine's process: it starts one below a shim, or finds the shim that waits for it."""

import asyncio
import atexit
import errno
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ftharness.failover.identity import Identity
from ftharness.pool.engine_process import EngineProcess, OnLine
from ftharness.pool.open_files import AT_FIRST
from ftharness.pool.shim_link import SOCKET
from ftharness.pool.shim_wire import Message, put, reachable, said, take
from ftharness.pool.slot import TAG, Slot

_LAUNCHER = Path(__file__).with_name("launch_shim.py")
_START_S = 30.0
_HELLO_S = 5.0
_LOG_LIMIT = 32 << 20
_SETTLE_S = 1.0
#: Shims that have not ended. Where they survive us, nobody waits for them here, and that is no mistake to be warned of.
_children: "set[subprocess.Popen[bytes]]" = set()


@atexit.register
def _let_them_live() -> None:
    for shim in _children:
        if shim.poll() is None:
            shim.returncode = 0  # of which Popen takes it that somebody has waited


class CannotStart(Exception):  # noqa: N818 - says what is the case
    """An engine could not be started; the message says what was tried, and why not."""


async def start(
    slot: Slot,
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    cwd: str,
    survive: bool,
    about: Mapping[str, Any],
    on_line: OnLine = lambda _: None,
    privileges: Mapping[str, Any] | None = None,
    scratch_in: str = "",
    log_limit: int = _LOG_LIMIT,
    settle_s: float = _SETTLE_S,
) -> EngineProcess:
    """Start an engine in a slot that is free; returns when its program has been executed.

    Args:
        slot: The slot.
        argv: The program, looked for in its own PATH, and its arguments. No shell.
        environment: All of its variables.
        cwd: Where it starts.
        survive: Whether it is to outlive this manager, and wait for the next.
        about: What the next manager is to know; a few hundred bytes, without secrets.
        on_line: Gets each line of its output.
        privileges: What it gives up before it runs, for :func:`ftharness.pool.privileges.apply`; None: nothing.
        scratch_in: In which folder it gets one of its own for temporary files, its ``TMPDIR``, removed with it; "": in none.
        log_limit: Bytes of its output on disk.
        settle_s: Seconds that what it started may live on when it has ended, before it is killed.

    Raises:
        CannotStart: It cannot be executed, or the slot is not free, or its folder cannot be written.
    """
    tag, _, value = slot.tag.partition("=")
    assert tag == TAG
    spec = {
        "argv": list(argv),
        "environment": [f"{name}={setting}" for name, setting in {**environment, tag: value}.items()],
        "cwd": cwd,
        "folder": str(slot.folder),
        "survive": survive,
        "log_limit": log_limit,
        "settle_s": settle_s,
        "privileges": None if privileges is None else dict(privileges),
        "scratch_in": scratch_in,
        "open_files": AT_FIRST,
        "about": dict(about),
    }
    try:
        slot.make()
        link, shim = _spawn_shim(spec, slot)
    except OSError as error:
        raise CannotStart(f"cannot start {slot.engine_id}: {error}") from error
    _reap_when_it_ends(shim)
    try:
        message, pidfd = await _first_word(link, _START_S)
    except OSError as error:
        _call_off(link)
        raise CannotStart(f"cannot start {slot.engine_id}: {error}") from error
    except BaseException:  # nobody waits for it any more
        _call_off(link)
        raise
    if message["say"] != "hello":
        link.close()
        raise CannotStart(f"cannot start {slot.engine_id}: {_why(message, argv[0], cwd)}")
    return EngineProcess(slot, link, message, pidfd, on_line)


async def connect(slot: Slot, on_line: OnLine = lambda _: None) -> EngineProcess | None:
    """The engine that runs in a slot, from the shim that waits there for a manager; None where none answers.

    It is taken for this slot's only if the process that listens is the one that the shim says it is, by the kernel's word.

    Raises:
        OSError: We have too many files open.
    """
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link.settimeout(0)
    try:
        folder, path = reachable(str(slot.folder), SOCKET)
        try:
            link.connect(path)
        finally:
            os.close(folder)
        message, pidfd = await _first_word(link, _HELLO_S)
    except OSError as error:  # also: no answer in time
        link.close()
        if error.errno == errno.EMFILE:
            raise
        return None
    shim = Identity(*message["shim"])
    listener, _, _ = struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    record = slot.record()
    if shim.pid != listener or not (shim.here and shim.lives) or record is None or record.shim != shim:
        link.close()
        os.close(pidfd)
        return None
    return EngineProcess(slot, link, message, pidfd, on_line)


def _spawn_shim(spec: Mapping[str, Any], slot: Slot) -> "tuple[socket.socket, subprocess.Popen[bytes]]":
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    memfd = os.memfd_create("ftharness-shim", os.MFD_CLOEXEC)
    try:
        data = memoryview(json.dumps(spec).encode())
        while data:
            data = data[os.write(memfd, data) :]
        # -I -S: the shim needs the standard library alone, and starts in half the time.
        words = [str(_LAUNCHER), str(theirs.fileno()), str(memfd), str(os.getpid())]
        # Its output would be a mistake's traceback. It does not go to ours: whoever reads that waits for an end that may be far.
        with slot.complaints_path.open("wb") as complaints:
            shim = subprocess.Popen(
                [sys.executable, "-I", "-S", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                cwd="/",
                pass_fds=(theirs.fileno(), memfd),
                start_new_session=True,
            )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        os.close(memfd)
    ours.settimeout(0)
    return ours, shim


async def _first_word(link: socket.socket, deadline_s: float) -> tuple[dict[str, Any], int]:
    """The shim's first message, and the engine's pidfd with it.

    Raises:
        OSError: There was none in time, it closed instead, or we have too many files open.
    """
    loop = asyncio.get_running_loop()
    heard: asyncio.Future[tuple[Message | None, list[int]]] = loop.create_future()

    def hear() -> None:
        try:
            heard.set_result(take(link))
        except BlockingIOError:
            return
        loop.remove_reader(link)

    loop.add_reader(link, hear)
    try:
        async with asyncio.timeout(deadline_s):
            message, fds = await heard
    except TimeoutError:
        raise TimeoutError(f"its shim said nothing within {deadline_s:g} s") from None
    finally:
        loop.remove_reader(link)
    if not isinstance(message, dict):
        raise ConnectionError("its shim ended before it said anything")
    if message["say"] == "hello" and not fds:
        raise OSError(errno.EMFILE, "too many open files; `ulimit -n` raises the limit")
    return message, fds[0] if fds else -1


def _call_off(link: socket.socket) -> None:
    """Whatever it has started, or will, is to end."""
    put(link, said(do="end"))
    link.close()


def _why(message: Mapping[str, Any], program: str, cwd: str) -> str:
    number, stage = message["errno"], message["stage"]
    said_why = os.strerror(number)
    match stage:
        case "program":
            return f"{program} cannot be executed: {said_why}"
        case "cwd":
            return f"its folder {cwd} cannot be entered: {said_why}"
        case "privileges":
            return f"it cannot be run with fewer privileges: {said_why}"
        case "slot" | "state":
            return str(message["why"])
        case _:
            return f"{stage}: {said_why}"


def _reap_when_it_ends(shim: "subprocess.Popen[bytes]") -> None:
    """Wait for our child, the shim, when the kernel says that it has ended; no zombie is left."""
    loop = asyncio.get_running_loop()
    fd = os.pidfd_open(shim.pid)
    _children.add(shim)

    def reap() -> None:
        loop.remove_reader(fd)
        os.close(fd)
        shim.wait()
        _children.discard(shim)

    loop.add_reader(fd, reap)
