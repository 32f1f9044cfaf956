"""A nemesis counts a token once, whatever it waited for before."""

import asyncio
from typing import cast

from ftharness.faults import kill, named
from ftharness.history import FaultRequested, History, RequestChunk, RequestSent
from ftharness.scenario import on_log, on_token
from ftharness.scenario.nemesis import Nemesis
from ftharness.stack import RunningStack


def test_what_was_disarmed_asks_no_more() -> None:
    """Armed once for a line and then for a token, it is asked of each token once: the third is the third."""

    async def tokens(count: int) -> int:
        history = History()
        nemesis = Nemesis(cast("RunningStack", None), history, speed=1)  # nothing is broken here, so nothing is needed
        nemesis.arm([on_log("draining").inject(kill(named("a")))])
        nemesis.disarm()
        nemesis.arm([on_token(3).inject(kill(named("a")))])
        history.append(RequestSent(source="client", request="r", endpoint="/v1/completions"))
        for place in range(count):
            history.append(RequestChunk(source="client", request="r", first=place, tokens=1, text="x"))
        await asyncio.sleep(0)  # a strike begins in the loop's next turn
        nemesis.disarm()
        return len(list(history.select(FaultRequested)))

    assert asyncio.run(tokens(2)) == 0
    assert asyncio.run(tokens(3)) == 1
