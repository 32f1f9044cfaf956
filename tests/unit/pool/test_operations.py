"""Operations: one at a time to a pool, readable when they are over, called off in order."""

import asyncio

import pytest

from ftharness.pool.operations import Busy, OperationFailed, Operations, Progress, UnknownOperation


def _operations(**more: int) -> Operations:
    ticks = iter(range(1000, 10**6))
    return Operations(lambda: next(ticks), **more)


async def _at_once(progress: Progress) -> str:
    progress("at it")
    return "done"


async def _fails(progress: Progress) -> str:
    del progress
    raise OperationFailed("it did not work", outcome="rolled_back")


async def _mistaken(progress: Progress) -> str:
    del progress
    raise ZeroDivisionError("of the test")


async def _for_ever(progress: Progress) -> str:
    progress("waits")
    await asyncio.Event().wait()
    return ""


async def test_how_operations_end() -> None:
    """With what they came to; with what failed, in the operation's own word; with a mistake's name. The pool is free again."""
    operations = _operations()
    over = await operations.until_over(operations.begin("preload", "p", _at_once).id)
    assert (over.state, over.detail, over.error, over.ended_ms) == ("succeeded", "done", None, over.started_ms + 1)
    over = await operations.until_over(operations.begin("reload", "p", _fails).id)
    assert (over.state, over.detail, over.error) == ("failed", "rolled_back", "it did not work")
    over = await operations.until_over(operations.begin("reload", "p", _mistaken).id)
    assert (over.state, over.error) == ("failed", "ZeroDivisionError: of the test")
    assert operations.running("p") is None


async def test_who_waits_is_let_go_when_the_manager_ends() -> None:
    """With the operation as it is; who comes later does not wait at all."""
    operations = _operations()
    begun = operations.begin("drain", "p", _for_ever)
    waiting = asyncio.create_task(operations.until_over(begun.id))
    await asyncio.sleep(0)
    operations.let_go()
    assert (await waiting).state == "running"
    assert (await operations.until_over(begun.id)).state == "running"
    await operations.close()
    assert operations.get(begun.id).state == "failed"


async def test_one_at_a_time_to_a_pool() -> None:
    """The second is refused with the first; another pool's is not; one that says so takes the place of the first."""
    operations = _operations()
    first = operations.begin("drain", "p", _for_ever)
    with pytest.raises(Busy, match="drain op-1 is under way") as busy:
        operations.begin("reload", "p", _at_once)
    assert busy.value.operation == operations.get(first.id)
    assert operations.begin("drain", "q", _for_ever).state == "running"
    second = operations.begin("resume", "p", _at_once, instead_of=("drain",))
    assert (await operations.until_over(second.id)).state == "succeeded"
    assert (operations.get(first.id).state, operations.get(first.id).detail) == ("failed", "cancelled")
    await operations.close()
    assert operations.running("q") is None


async def test_the_next_waits_until_the_first_has_cleaned_up() -> None:
    """What takes another's place begins when that one's end is whole."""
    operations, steps = _operations(), []

    async def first(progress: Progress) -> str:
        del progress
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.02)
            steps.append("first is over")
        return ""

    async def second(progress: Progress) -> str:
        del progress
        steps.append("second begins")
        return ""

    operations.begin("drain", "p", first)
    await asyncio.sleep(0)
    await operations.until_over(operations.begin("resume", "p", second, instead_of=("drain",)).id)
    assert steps == ["first is over", "second begins"]


async def test_one_that_is_called_off_before_its_first_step_is_over() -> None:
    """It does not stay the pool's for ever."""
    operations = _operations()
    operation = operations.begin("drain", "p", _for_ever)
    await operations.call_off("p")
    assert operations.get(operation.id).state == "failed"
    assert operations.running("p") is None
    await operations.call_off("p")


async def test_a_wait_has_an_end() -> None:
    """Whoever waits for less long than the operation takes gets it as it is."""
    operations = _operations()
    operation = operations.begin("drain", "p", _for_ever)
    seen = await operations.until_over(operation.id, 0.01)
    assert (seen.state, seen.detail) == ("running", "waits")
    await operations.close()


async def test_operations_are_kept_for_a_while() -> None:
    """The oldest that are over are forgotten; one that runs never is."""
    operations = _operations(kept=3)
    runs = operations.begin("drain", "q", _for_ever)
    for _ in range(20):
        last = await operations.until_over(operations.begin("preload", "p", _at_once).id)
    assert len(operations._all) <= 5
    assert operations.get(runs.id).state == "running"
    assert operations.get(last.id).state == "succeeded"
    with pytest.raises(UnknownOperation, match="op-2"):
        operations.get("op-2")
    await operations.close()
