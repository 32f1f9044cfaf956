"""Which worker made a chunk, by the word of the answer itself, behind the real frontend."""

from collections.abc import Callable
from itertools import groupby
from typing import Any

import pytest

from ftharness.client import chat, completion
from ftharness.faults import kill, serving
from ftharness.history import Log, RequestChunk
from ftharness.scenario import Scenario, migrated, on_token, tokens_exact
from ftharness.stack import aggregated

Run = Callable[..., Any]


@pytest.mark.parametrize("ask", [completion, chat])
@pytest.mark.parametrize("version", ["1.4.2", "1.5.1", "1.6.1"])
def test_each_chunk_names_the_worker_that_made_it(run: Run, version: str, ask: Callable[..., Any]) -> None:
    """The frontend passes on what our engine says of each chunk: the first worker, and from the migration on the second."""
    scenario = Scenario(
        name="test/served",
        topology=aggregated(workers=2),
        workload=[ask(max_tokens=120, extra={"nvext": {"extra_fields": ["engine_data"]}})],
        faults=[on_token(30).inject(kill(serving))],
        expect=[migrated(times=1), tokens_exact()],
    )
    _, events, _ = run(scenario, "dynamo-sim", version)
    since = next(event.t for event in events if event.kind == "run.phase" and event.phase == "fault")
    chunks = [event for event in events if isinstance(event, RequestChunk) and event.t > since]
    takers = [event.source for event in events if isinstance(event, Log) and event.event == "request_received"]
    assert [worker for worker, _ in groupby(chunk.worker for chunk in chunks)] == takers[1:]
    assert len(takers) == 3
