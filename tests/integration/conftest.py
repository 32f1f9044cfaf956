"""What tests of whole processes share: waiting for what another process does, and for its end."""

import os
import select
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def until() -> Callable[..., None]:
    """``until(holds, process)``: wait until ``holds()``; fails when ``process`` ends first, or after 30 s."""
    return _until


@pytest.fixture
def all_gone() -> Callable[[list[int], float], bool]:
    """``all_gone(pids, within_s)``: whether all of these end in time."""
    return _gone


def _until(holds: Callable[[], bool], process: subprocess.Popen[Any], deadline_s: float = 30.0) -> None:
    """Look again whenever the run's output moves, and every 50 ms: a file that does not exist yet cannot be watched."""
    deadline = time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come"
        assert process.poll() is None, "the run has ended"
        select.select([], [], [], 0.05)


def _gone(pids: list[int], within_s: float) -> bool:
    """Whether all of these end in time, each seen by its pidfd."""
    poll, open_fds = select.poll(), set()
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        open_fds.add(fd)
        poll.register(fd, select.POLLIN)
    deadline = time.monotonic() + within_s
    try:
        while open_fds:
            left_ms = (deadline - time.monotonic()) * 1000
            ended = poll.poll(left_ms) if left_ms > 0 else []
            if not ended:
                return False
            for fd, _ in ended:
                poll.unregister(fd)
                open_fds.discard(fd)
                os.close(fd)
    finally:
        for fd in open_fds:
            os.close(fd)
    return True
