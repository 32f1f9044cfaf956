"""What a lock promises to one who does nothing unusual."""

from ftharness.failover.conformance.check import WINDOW_S, Bench, Check, NonConformance, check, expect


@check
def excludes(bench: Bench) -> None:
    """One engine has it at a time; the next has it when that lets go, and is told that it was contended."""
    first, second = bench.engine("engine-0"), bench.engine("engine-1")
    first.acquires()
    second.is_refused()
    second.tell("acquire", timeout=None)
    second.stays_silent("the second has it while the first holds it")
    first.ask("release")
    expect(second.outcome(second.answer()), "acquired", "the second does not get what was released", second)
    contended = {engine.name: engine.ask("state")["contended"] for engine in (first, second)}
    expect(contended, {"engine-0": False, "engine-1": True}, "was_contended of the one that waited, and the other")
    first.is_refused()


@check
def tells_the_owner(bench: Bench) -> None:
    """No owner at first; then whoever took it last, also after the release. The file holds that and nothing else."""
    first, second = bench.engine("engine-0"), bench.engine("a-longer-name")
    expect(second.ask("owner"), None, "there is an owner before anyone was")
    second.acquires()
    second.ask("release")
    first.acquires()
    expect(second.ask("owner"), "engine-0", "the owner is not who holds it")
    expect(bench.path.read_bytes(), b"engine-0", "the file holds something else than the owner")
    first.ask("release")
    expect(second.ask("owner"), "engine-0", "the owner is forgotten by a release")


@check
def times_out(bench: Bench) -> None:
    """A wait ends at its timeout with FailoverLockContended, leaves nothing open, and may be tried again."""
    first, second = bench.engine("engine-0"), bench.engine("engine-1")
    before = second.ask("files")
    first.acquires()
    for timeout in (0.0, WINDOW_S):
        second.tell("acquire", timeout=timeout)
        if not second.answers_within(second.patience_s / 2):
            raise NonConformance(f"acquire(timeout={timeout:g}) waits on")
        expect(second.outcome(second.answer()), "FailoverLockContended", "a timeout is another outcome", second)
    expect(second.ask("files"), before, "a timeout leaves [open files, children]")
    first.ask("release")
    second.acquires()


@check
def one_hold_an_object(bench: Bench) -> None:
    """A second acquire on one object is rejected, while it waits and while it holds, and changes nothing for the first."""
    first, second = bench.engine("engine-0"), bench.engine("engine-1")
    first.acquires()
    expect(first.acquire(0), "FailoverLockError", "an object acquires what it holds", first)
    second.is_refused()
    expect(
        second.ask("acquire_twice"),
        ["FailoverLockError", "FailoverLockContended"],
        "[the second, the first] of two acquisitions of an object that waits end otherwise",
    )
    first.ask("release")
    second.acquires()


@check
def release_keeps_the_file(bench: Bench) -> None:
    """A release leaves the lock file where it is: whoever waits for the old one and whoever finds none would both hold one."""
    first = bench.engine("engine-0")
    first.acquires()
    before = bench.path.stat().st_ino
    first.ask("release")
    expect(bench.path.exists() and bench.path.stat().st_ino, before, "the lock file's inode after a release")


@check
def a_dropped_object_holds(bench: Bench) -> None:
    """Who acquires may forget the object, as Dynamo's workers do; it holds until its process ends."""
    first, second = bench.engine("engine-0"), bench.engine("engine-1")
    first.acquires()
    first.ask("drop")
    second.is_refused()
    first.kill()
    second.acquires()


@check
def releases_from_anywhere(bench: Bench) -> None:
    """release_nowait() works in a signal handler and in another thread."""
    first, second = bench.engine("engine-0"), bench.engine("engine-1")
    for where in ("signal handler", "thread"):
        first.acquires()
        first.ask("release_in", where=where)
        second.acquires()
        second.ask("release")


@check
def tokens_grow(bench: Bench) -> None:
    """Each acquisition's fencing token is greater than the last, whoever acquires; an older one is refused."""
    first, second = bench.engine("engine-0"), bench.engine("engine-1")
    tokens: list[int] = []
    for engine in (first, second, second, first):
        engine.acquires()
        tokens.append(engine.ask("state")["token"])
        expect(second.ask("guard", token=tokens[-1]), "passed", "the holder's token is refused")
        for older in tokens[:-1]:
            expect(second.ask("guard", token=older), "FailoverLockFenced", "a token of a former holder passes")
        engine.ask("release")
    expect(tokens, sorted(set(tokens)), "the tokens of four acquisitions do not grow")


PROMISES: tuple[Check, ...] = (
    excludes,
    tells_the_owner,
    times_out,
    one_hold_an_object,
    release_keeps_the_file,
    a_dropped_object_holds,
    releases_from_anywhere,
    tokens_grow,
)
