"""A run that a test drove itself: what it expected, and when; so that it can be judged again from its files."""

from collections.abc import Sequence

import msgspec

from ftharness.history import Event
from ftharness.scenario.expect import Expect
from ftharness.scenario.judge import judge
from ftharness.scenario.record import OracleRecord, ScenarioRecord, worst
from ftharness.scenario.scenario import Scenario


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What a test expected in one call of ``ft.expect``.

    Attributes:
        after: The number of the history's last event by then. What came later may have been meant to differ.
        expect: What it expected.
    """

    after: int
    expect: list[Expect]


class ByTest(msgspec.Struct, frozen=True, kw_only=True):
    """The test that drove a run.

    Attributes:
        node: Its id, as pytest takes it.
        expected: In the order in which it was judged.
        error: What the test failed with, or "".
    """

    node: str
    expected: list[Expected] = []
    error: str = ""


def with_test(whole: ScenarioRecord, scenario: Scenario, test: ByTest, events: Sequence[Event]) -> ScenarioRecord:
    """The record of the whole run, with each expectation as of when the test asked, and with the test's own failure."""
    parts = [_judged(scenario, expected, events) for expected in test.expected]
    verdict = worst([whole.verdict, *(part.verdict for part in parts)])
    reason = whole.reason or next((part.reason for part in parts if part.verdict == verdict != "pass"), "")
    if test.error and verdict == "pass":  # it did not come to its end, whatever held until then
        verdict, reason = "fail", f"the test failed: {test.error}"
    return msgspec.structs.replace(
        whole,
        oracles=[*(oracle for part in parts for oracle in part.oracles), *whole.oracles],
        drift=list(dict.fromkeys([*(line for part in parts for line in part.drift), *whole.drift])),
        verdict=verdict,
        reason=reason,
    )


def _judged(scenario: Scenario, expected: Expected, events: Sequence[Event]) -> ScenarioRecord:
    before = [event for event in events if event.n <= expected.after]
    named = msgspec.structs.replace(scenario, expect=expected.expect)
    record = judge(named, before, ongoing=True)
    if len(before) == expected.after:
        return record
    # A part of what the test looked at would show a token lost that is only not in the file.
    reason = f"the history ends before event {expected.after}, after which this was judged"
    lost = [OracleRecord(name=one.name, verdict="unknown", reason=f"not tested: {reason}") for one in record.oracles]
    return msgspec.structs.replace(record, oracles=lost, verdict="unknown", reason=reason)
