"""What befalls a lock: engines that die, fork, freeze and are called off, files that are replaced, disks that are full."""

import select
from collections.abc import Callable
from pathlib import Path

from ftharness.failover.conformance.check import WINDOW_S, Bench, Check, Engine, check, expect

_HERD = 20
#: Steps of an acquisition's task, and then milliseconds, after which it is called off.
_STEPS = 25
_PAUSES_MS = [1, 2, 3, 5, 8, 12, 15, 18, 20, 22, 25, 30, 35, 40, 50, 60, 80, 100]


@check
def death_releases(bench: Bench) -> None:
    """When its holder is killed by SIGKILL, whoever waits has it."""
    first, second = bench.engine("engine-0"), bench.engine("engine-1")
    first.acquires()
    _waits(second)
    first.kill()
    _has_it(second, "its holder was killed")


@check
def children_inherit_nothing(bench: Bench) -> None:
    """The children of a holder that is killed, forked or executed, do not keep the lock."""
    first, second = bench.engine("engine-0"), bench.engine("engine-1")
    first.acquires()
    first.ask("leave_children")
    first.kill()
    second.acquires()


@check
def a_replaced_file_is_noticed(bench: Bench) -> None:
    """Who waited for a lock file that was replaced meanwhile has the lock of the new one, and is alone in that."""
    _outlives_its_file(bench, _replace)


@check
def a_deleted_file_is_noticed(bench: Bench) -> None:
    """The same where the lock file was deleted: it is made again."""
    _outlives_its_file(bench, Path.unlink)


@check
def a_frozen_holder_keeps_it(bench: Bench) -> None:
    """While its holder is stopped (SIGSTOP) nobody else has it; when the holder is killed, the next one does."""
    first, second = bench.engine("engine-0"), bench.engine("engine-1")
    first.acquires()
    first.stop()
    second.is_refused()
    _waits(second)
    first.kill()
    _has_it(second, "its frozen holder was killed")


@check
def a_frozen_waiter_is_passed_over(bench: Bench) -> None:
    """One who waits and is stopped (SIGSTOP) does not keep the lock from the others who wait."""
    first, frozen, second = (bench.engine(f"engine-{number}") for number in range(3))
    first.acquires()
    _waits(frozen)
    frozen.stop()
    _waits(second)
    first.kill()
    _has_it(second, "its holder was killed, and one who waits is frozen")
    frozen.thaw()
    frozen.stays_silent("the thawed one has it as well")
    second.kill()
    _has_it(frozen, "the next holder was killed")


@check
def a_dead_waiter_leaves_nothing(bench: Bench) -> None:
    """One who is killed while it waits is forgotten: the lock goes to the next."""
    first, dead, second = (bench.engine(f"engine-{number}") for number in range(3))
    first.acquires()
    _waits(dead)
    dead.kill()
    first.ask("release")
    second.acquires()


@check
def cancelled_everywhere(bench: Bench) -> None:
    """An acquisition that is called off, at whatever await, leaves no file open, no process and no lock behind."""
    first, second = bench.engine("engine-0"), bench.engine("engine-1")
    second.acquires()  # what a first acquisition opens for good is not a leak
    second.ask("release")
    before = second.ask("files")
    first.acquires()
    expect(second.ask("cancel_everywhere", steps=_STEPS, pauses_ms=_PAUSES_MS), 0, "acquisitions of what another holds")
    expect(second.ask("files"), before, "cancelled acquisitions leave [open files, children]")
    first.ask("release")
    second.ask("cancel_everywhere", steps=_STEPS, pauses_ms=[])
    expect(second.ask("files"), before, "cancelled acquisitions of a free lock leave [open files, children]")
    first.acquires()
    first.ask("release")
    second.acquires()


@check
def the_text_is_not_the_lock(bench: Bench) -> None:
    """Whatever the file says: what is free is acquired, what is held is not."""
    bench.path.write_text("engine-9")
    first, second = bench.engine("engine-0"), bench.engine("engine-1")
    first.acquires()
    for text in ("engine-1", "engine-9", ""):
        bench.path.write_text(text)
        second.is_refused()


@check
def a_herd_of_waiters(bench: Bench) -> None:
    """Of twenty who wait exactly one has it each time that a holder dies, and each has it once."""
    holder = bench.engine("engine-0")
    herd = [bench.engine(f"engine-{number + 1}") for number in range(_HERD)]
    holder.acquires()
    for engine in herd:
        engine.tell("acquire", timeout=None)
    for engine in herd:
        engine.stays_silent(f"{engine.name} has it while another holds it", WINDOW_S / _HERD)
    waiting = list(herd)
    while waiting:
        holder.kill()
        winners = _first_of(waiting)
        expect(len(winners), 1, f"who has it of {len(waiting)} who wait, after a holder's death")
        holder = winners[0]
        waiting.remove(holder)
        expect(holder.outcome(holder.answer()), "acquired", f"{holder.name} does not acquire", holder)


@check
def a_holder_dies_before_the_lock(bench: Bench) -> None:
    """A holder that dies while another has opened the file, and not asked for the lock yet, leaves it to that one."""
    first, second = bench.engine("engine-0"), bench.engine("engine-1", hindrance="stop-before-lock")
    third = bench.engine("engine-2")
    first.acquires()
    second.tell("acquire", timeout=None)
    second.stopped()
    first.kill()
    second.thaw()
    _has_it(second, "its holder died before it asked")
    third.is_refused()


@check
def a_read_only_folder_is_an_error(bench: Bench) -> None:
    """Where no file may be made acquire says so by FailoverLockError, and leaves nothing open."""
    folder = bench.path.parent / "read-only"
    folder.mkdir()
    folder.chmod(0o555)
    try:
        engine = bench.engine("engine-0", path=folder / "failover.lock", hindrance="no-rights")
        before = engine.ask("files")
        expect(engine.acquire(1), "FailoverLockError", "acquire in a read-only folder", engine)
        expect(engine.ask("files"), before, "an acquire that failed leaves [open files, children]")
    finally:
        folder.chmod(0o755)


@check
def a_full_disk_is_an_error(bench: Bench) -> None:
    """Where nothing can be written acquire says so by FailoverLockError, and leaves the lock to one who can."""
    hindered, other = bench.engine("engine-0", hindrance="no-room"), bench.engine("engine-1")
    before = hindered.ask("files")
    expect(hindered.acquire(1), "FailoverLockError", "acquire on a full disk", hindered)
    expect(hindered.ask("files"), before, "an acquire that failed leaves [open files, children]")
    other.acquires()
    expect(other.ask("owner"), "engine-1", "the owner is not who holds it")


def _waits(engine: Engine) -> None:
    engine.tell("acquire", timeout=None)
    engine.stays_silent(f"{engine.name} has it while another holds it")


def _has_it(engine: Engine, since: str) -> None:
    expect(engine.outcome(engine.answer()), "acquired", f"{since}, and {engine.name} does not have it", engine)


def _first_of(waiting: list[Engine]) -> list[Engine]:
    """Those who have an answer, a moment after the first one has."""
    outputs = {engine.output: engine for engine in waiting}
    select.select(list(outputs), [], [], waiting[0].patience_s)
    return [engine for engine in waiting if engine.answers_within(0.005)]


def _outlives_its_file(bench: Bench, remove: Callable[[Path], object]) -> None:
    first, second, third = (bench.engine(f"engine-{number}") for number in range(3))
    first.acquires()
    _waits(second)
    remove(bench.path)
    first.kill()
    _has_it(second, "its holder died, with the file gone")
    third.is_refused()
    second.kill()
    third.acquires()


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


FAULTS: tuple[Check, ...] = (
    death_releases,
    children_inherit_nothing,
    a_replaced_file_is_noticed,
    a_deleted_file_is_noticed,
    a_frozen_holder_keeps_it,
    a_frozen_waiter_is_passed_over,
    a_dead_waiter_leaves_nothing,
    cancelled_everywhere,
    the_text_is_not_the_lock,
    a_herd_of_waiters,
    a_holder_dies_before_the_lock,
    a_read_only_folder_is_an_error,
    a_full_disk_is_an_error,
)
