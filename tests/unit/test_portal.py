"""What is begun in the harness's loop: waited for in loops of every kind, ended at the end, and no failure lost."""

import asyncio
import contextvars
from collections.abc import Iterator

import pytest

from ftharness.portal import Done, Pending, Portal


@pytest.fixture
def portal() -> Iterator[Portal]:
    """A loop of the test's own, in a thread."""
    portal = Portal()
    yield portal
    portal.close()


async def _fails() -> None:
    raise ValueError("not so")


async def test_it_is_awaited_in_a_loop_of_the_tests_own(portal: Portal) -> None:
    """The result crosses the threads."""

    async def answer() -> int:
        return 42

    assert await portal.begin("it", answer()) == 42


def test_a_loop_that_is_not_asyncios_is_told_what_to_say(portal: Portal) -> None:
    """A coroutine that something else than asyncio drives, as trio does."""

    async def test() -> None:
        await portal.begin("it", asyncio.sleep(0))

    with pytest.raises(RuntimeError, match=r"awaited in asyncio .* say \.wait\(\) instead"):
        test().send(None)


def test_a_tests_context_is_not_the_harnesss(portal: Portal) -> None:
    """Where anyio says in it that trio runs, what the harness uses would believe that."""
    variable = contextvars.ContextVar("variable", default="asyncio")

    async def look() -> str:
        return variable.get()

    variable.set("trio")
    assert portal.begin("it", look()).wait() == "asyncio"
    assert portal.call(look()) == "asyncio"


def test_a_failure_that_nobody_waits_for_is_named_once(portal: Portal) -> None:
    """One that was waited for is its waiter's, and so is one that was awaited."""
    portal.begin("lost", _fails())
    with pytest.raises(ValueError, match="not so"):
        portal.begin("waited for", _fails()).wait()

    async def test() -> None:
        await portal.begin("awaited", _fails())

    with pytest.raises(ValueError, match="not so"):
        asyncio.run(test())
    assert portal.settle() == ["lost: ValueError: not so"]
    assert portal.settle() == []


def test_a_failure_after_a_wait_that_was_too_short_is_not_lost(portal: Portal) -> None:
    """The waiter has got the end of its own time, not the failure."""
    begun: Pending[asyncio.Event] = portal.begin("an event", _event())
    event = begun.wait()

    async def fails_then() -> None:
        await event.wait()
        await _fails()

    late = portal.begin("late", fails_then())
    with pytest.raises(TimeoutError):
        late.wait(0)

    async def set_it() -> None:
        event.set()

    portal.begin("set it", set_it()).wait()
    assert portal.settle() == ["late: ValueError: not so"]


async def _event() -> asyncio.Event:
    return asyncio.Event()


def test_what_is_not_over_is_ended_with_its_cleaning_up(portal: Portal) -> None:
    """No failure, but nothing goes on behind the teardown."""
    steps = []

    async def endless() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0)
            steps.append("cleaned up")

    portal.begin("endless", endless())
    assert portal.settle() == []
    assert steps == ["cleaned up"]


def test_a_result_that_is_meant_says_that_it_has_to_be_awaited(portal: Portal) -> None:
    """The first mistake that everybody makes."""
    pending = portal.begin("a completion of ft.client", asyncio.sleep(0))
    with pytest.raises(AttributeError, match=r"a completion of ft\.client has to be awaited before \.token: await it"):
        pending.token(3)  # type: ignore[attr-defined]
    pending.wait()


async def test_what_is_done_may_be_awaited_and_waited_for() -> None:
    """So that a test may treat everything of ``ft`` alike."""

    class Here(Done):
        pass

    here = Here()
    assert await here is here
    assert here.wait(3) is here
