"""Which worker made a chunk, by the word of the answer itself."""

from itertools import groupby

import pytest

from ftharness.faults import kill, serving
from ftharness.history import Log, RequestChunk
from ftharness.pytest_plugin import Ft
from ftharness.scenario import migrated, tokens_exact
from ftharness.stack import aggregated

ASKS = {"nvext": {"extra_fields": ["engine_data"]}}


def served(ft: Ft, request: str) -> list[str]:
    """The workers that chunks name, in order; each once as long as nobody else comes between."""
    return [worker for worker, _ in groupby(chunk.worker for chunk in ft.history.select(RequestChunk, request=request))]


@pytest.mark.parametrize("more", [{}, {"logprobs": True}], ids=["plain", "logprobs"])
@pytest.mark.parametrize("endpoint", ["complete", "chat"])
async def test_each_chunk_names_the_worker_that_made_it(ft: Ft, endpoint: str, more: dict[str, bool]) -> None:
    """Before the migration it is the first one, from then on the second, as their own lines say; not a token is another."""
    await ft.launch(aggregated(workers=2))
    stream = await getattr(ft.client, endpoint)(max_tokens=120, extra=ASKS, **more)
    await stream.token(30)
    await ft.inject(kill(serving))
    await stream.finished()
    takers = [line.source for line in ft.history.select(Log, event="request_received")]
    assert served(ft, stream.id) == takers
    assert len(takers) == 2
    ft.expect(migrated(stream), tokens_exact(stream))


async def test_a_chunk_names_nobody_unless_it_is_asked_to(ft: Ft) -> None:
    """The format of an answer is as ever where nobody asks; and one in a single piece may be of several workers."""
    await ft.launch(aggregated(workers=1))
    plain = await ft.client.complete(max_tokens=5)
    whole = await ft.client.complete(max_tokens=5, stream=False, extra=ASKS)
    assert (await plain.finished()).outcome == (await whole.finished()).outcome == "success"
    assert served(ft, plain.id) == served(ft, whole.id) == [""]
