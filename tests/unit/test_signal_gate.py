"""A signal that comes while something is half done, in real processes."""

import subprocess
import sys

import pytest

HEAD = """
import os, signal, sys, threading
from ftharness.coordinator.shutdown import SignalGate

acted = []
def act(before):
    acted.append((before, threading.current_thread() is threading.main_thread()))
gate = SignalGate(act)
gate.install(signal.SIGTERM)
inside = threading.Event()
"""
#: The main thread holds a lock that another one needs to end its block, as logging's is, when the signal comes.
NEEDS_A_LOCK = """
lock = threading.Lock()
def other():
    with gate:
        inside.set()
        with lock:
            print("the other has it", acted, flush=True)
with lock:
    thread = threading.Thread(target=other)
    thread.start()
    inside.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    print("ours still", acted, flush=True)
thread.join()
print(acted)
"""
#: Its own block is the one that the signal comes in.
OWN_BLOCK = """
with gate:
    with gate:
        os.kill(os.getpid(), signal.SIGTERM)
    print("half done", acted)
print(acted)
os.kill(os.getpid(), signal.SIGTERM)
print(acted)
"""


def run(program: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", HEAD + program], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_block_of_another_thread_that_needs_a_lock_of_ours() -> None:
    """Nobody waits for anybody: the signal comes again when the block has ended, to the main thread."""
    assert run(NEEDS_A_LOCK) == ["ours still []", "the other has it []", "[(0, True)]"]


def test_a_block_of_our_own() -> None:
    """It ends first; a second signal is the second."""
    assert run(OWN_BLOCK) == ["half done []", "[(0, True)]", "[(0, True), (1, True)]"]


@pytest.mark.parametrize("round_", range(3))
def test_no_signal_is_lost_between_blocks(round_: int) -> None:
    """A hundred, each waited for, while another thread enters and leaves blocks as fast as it can."""
    program = """
going = True
def other():
    while going:
        with gate:
            pass
thread = threading.Thread(target=other)
thread.start()
import time
for n in range(100):
    os.kill(os.getpid(), signal.SIGTERM)
    until = time.monotonic() + 5
    while len(acted) <= n and time.monotonic() < until:
        time.sleep(0)
going = False
thread.join()
print([before for before, _ in acted] == list(range(100)), all(main for _, main in acted))
"""
    assert run(program) == ["True True"]
