"""An engine that decodes greedily, whose tokens nobody can compute: the run without the fault is the reference, if it is one.

The processes are the simulated stack's; the plan says no more of them than it could of a real engine's.
"""

import asyncio
import dataclasses
import json
import os
from pathlib import Path

import jsonschema
import msgspec
import pytest

import ftharness
from ftharness.client import chat, completion
from ftharness.client.client import one_a_chunk
from ftharness.engine import tokens
from ftharness.faults import kill, serving
from ftharness.history import RequestChunk, RequestSent, RunFinished, RunPhase, read_history
from ftharness.scenario import Scenario, ScenarioRecord, at, judge, on_token, succeeds, tokens_exact
from ftharness.scenario.record import HISTORY_FILE
from ftharness.scenario.runner import Cell, run_cell
from ftharness.stack import Plan, Settings, Topology, aggregated
from ftharness.stack.sim import LAUNCHER, SimStack
from ftharness.stack.token_ids import OurTokens

WAYWARD = Path(__file__).with_name("wayward_engine.py")
PACKAGE = str(Path(ftharness.__file__).parent)

FAILURE = Scenario(
    name="reference/worker_failure",
    topology=aggregated(workers=2, speed=500),
    workload=[completion(max_tokens=150)],
    faults=[on_token(40).inject(kill(serving))],
    expect=[succeeds(), tokens_exact()],
    idle_s=5,
)


class GreedyStack(SimStack):
    """The simulated stack as one of which it is only known that it decodes greedily.

    Args:
        how: What is wrong with its engines, as ``wayward_engine.py`` has it; "" for nothing.
        ids: Whether texts can be told as tokens; if not, nor how many tokens one holds.
    """

    def __init__(self, how: str = "", *, ids: bool = True) -> None:
        self._how = how
        self._ids = ids

    def plan(self, topology: Topology, settings: Settings) -> Plan:
        """The same processes, and nothing known of their tokens."""
        plan = super().plan(topology, settings)
        env = {**os.environ, "PYTHONUNBUFFERED": "1", "WAYWARD": self._how, "WAYWARD_PACKAGE": PACKAGE}
        launches = [
            dataclasses.replace(
                one, env=env, argv=[str(WAYWARD) if part == str(LAUNCHER) else part for part in one.argv]
            )
            if self._how
            else one
            for one in plan.launches
        ]
        if not self._ids:
            plan = dataclasses.replace(plan, count=one_a_chunk)
        return dataclasses.replace(
            plan,
            exact=False,
            greedy=True,
            ids=OurTokens() if self._ids else None,
            launches=launches,
            asks={"temperature": 0.0},
        )


async def run(folder: Path, kind: GreedyStack, *, bug: str = "", scenario: Scenario = FAILURE) -> ScenarioRecord:
    """The scenario on that stack; judged again from what it stored, to the same record."""
    record = await run_cell(Cell(scenario=scenario, stack="sim", bug=bug), kind, folder)
    assert judge(scenario, read_history(folder / HISTORY_FILE)) == record
    return record


def said(record: ScenarioRecord) -> tuple[str, str]:
    """What ``tokens_exact`` found."""
    return next((one.verdict, one.reason) for one in record.oracles if one.name == "tokens_exact()")


async def test_a_reference_that_holds_shows_that_every_token_came(tmp_path: Path) -> None:
    """The engine is asked twice before the fault, and once after it from where the fault was; the rest is equal."""
    record = await run(tmp_path, GreedyStack())
    verdict, reason = said(record)
    assert (verdict, record.verdict) == ("pass", "pass"), reason
    assert "distinct tokens in 150" in reason
    assert (record.tokens.expected, record.tokens.lost, record.tokens.altered) == (150, 0, 0)
    events = read_history(tmp_path / HISTORY_FILE)
    phases = [event.phase for event in events if isinstance(event, RunPhase)]
    assert phases == ["launch", "control", "repeat", "fault", "cut", "teardown"]
    sent = [event for event in events if isinstance(event, RequestSent)]
    assert [(one.control, one.check) for one in sent] == [(True, ""), (True, "repeat"), (False, ""), (True, "cut")]
    assert 40 <= sent[-1].cut <= 60, "where the fault was"
    assert sent[-1].body["max_tokens"] == 150 - sent[-1].cut
    shipped = jsonschema.Draft202012Validator(json.loads((Path(PACKAGE) / "schemas/history.schema.json").read_bytes()))
    for line in (tmp_path / HISTORY_FILE).read_bytes().splitlines():
        if b'"request.chunk"' not in line:  # there are hundreds, and they are as ever
            shipped.validate(json.loads(line))


@pytest.mark.parametrize(
    "how,why",
    [
        ("forgets", "the engine does not repeat itself: choice 0: of 150 tokens"),
        ("rereads", "is not continued as the reference: first difference at token"),
        ("babbles", "the reference has only 2 distinct tokens in 150"),
    ],
)
async def test_an_engine_that_is_no_reference_proves_nothing(tmp_path: Path, how: str, why: str) -> None:
    """Neither that all tokens came nor that one did not; which control does not hold is said."""
    record = await run(tmp_path, GreedyStack(how))
    verdict, reason = said(record)
    assert verdict == "unknown"
    assert why in reason
    assert record.verdict == "unknown"
    assert (record.tokens.lost, record.tokens.duplicated, record.tokens.altered) == (None, None, None)


@pytest.mark.parametrize(
    "bug,count",
    [("drop-token", (1, 0, 0)), ("duplicate-token", (0, 1, 0)), ("wrong-context", None), ("give-up-quietly", None)],
)
async def test_what_a_migration_does_to_the_tokens_is_seen(
    tmp_path: Path, bug: str, count: tuple[int, int, int] | None
) -> None:
    """One that is lost, one that comes twice, a context that is wrong, an end that is missing: as with our engine."""
    record = await run(tmp_path, GreedyStack(), bug=bug)
    verdict, reason = said(record)
    assert verdict == "fail", reason
    found = record.tokens
    if count:
        assert (found.lost, found.duplicated, found.altered) == count, reason
    else:
        assert found.lost or found.altered


@pytest.mark.parametrize("stream", [True, False])
async def test_a_chat_is_continued_as_the_prompt_that_its_template_makes(tmp_path: Path, stream: bool) -> None:
    """A chat's answer is cut, too; one in a single piece in its middle, for nobody saw where it was interrupted."""
    scenario = msgspec.structs.replace(FAILURE, workload=[chat(max_tokens=150, stream=stream)])
    record = await run(tmp_path, GreedyStack(), scenario=scenario)
    assert record.verdict == "pass", record.reason
    cut = next(event for event in read_history(tmp_path / HISTORY_FILE) if getattr(event, "check", "") == "cut")
    assert isinstance(cut, RequestSent)
    assert cut.endpoint == "/v1/completions"
    assert cut.body["prompt"][: -cut.cut] == tokens.encode("user: Tell me a story\nassistant:")
    assert stream or cut.cut == 75


async def test_an_interrupt_while_the_reference_is_checked_ends_the_run(tmp_path: Path) -> None:
    """As at any other time: everything is torn down, and the run that is left says that it was interrupted."""

    def interrupt(phase: str) -> None:
        if phase == "cut":
            whole.cancel()

    cell = Cell(scenario=FAILURE, stack="sim")
    whole = asyncio.create_task(run_cell(cell, GreedyStack(), tmp_path, say=interrupt))
    with pytest.raises(asyncio.CancelledError):
        await whole
    events = read_history(tmp_path / HISTORY_FILE)
    assert isinstance(events[-1], RunFinished)
    assert events[-1].outcome == "interrupted"
    record = judge(FAILURE, events)
    assert (record.verdict, record.reason, record.leaks) == ("unknown", "interrupted", [])


@pytest.mark.parametrize("stream", [True, False])
async def test_without_a_tokenizer_the_begin_is_sent_as_text(tmp_path: Path, stream: bool) -> None:
    """An engine that goes on with it as it did has shown that it does; nobody was told anything of its tokens."""
    hit = on_token(40) if stream else at(0.1)
    scenario = msgspec.structs.replace(
        FAILURE, workload=[completion(max_tokens=150, stream=stream)], faults=[hit.inject(kill(serving))]
    )
    record = await run(tmp_path, GreedyStack("spells", ids=False), scenario=scenario)
    verdict, reason = said(record)
    assert (verdict, record.verdict) == ("pass", "pass"), reason
    assert "distinct words in 150" in reason
    events = read_history(tmp_path / HISTORY_FILE)
    sent = [event for event in events if isinstance(event, RequestSent)]
    chunks = (event for event in events if isinstance(event, RequestChunk) and event.request == sent[0].request)
    reference, cut = "".join(chunk.text for chunk in chunks), sent[-1]
    assert 0 < cut.cut_text < len(reference)
    assert cut.body["prompt"] == "Once upon a time" + reference[: cut.cut_text]
    assert cut.body["max_tokens"] == 150 - cut.cut


@pytest.mark.parametrize("how", ["spells,rereads", ""], ids=["goes on otherwise", "reads other tokens"])
async def test_a_text_that_is_not_gone_on_with_proves_nothing(tmp_path: Path, how: str) -> None:
    """Whether it is the engine's doing, or it reads its own text as other tokens than it made: both may be, it is said."""
    verdict, reason = said(await run(tmp_path, GreedyStack(how, ids=False)))
    assert verdict == "unknown"
    assert "characters) is not continued as the reference: first difference at character" in reason
    assert "may be read as other tokens than were made" in reason
