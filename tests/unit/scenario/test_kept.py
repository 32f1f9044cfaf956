"""A record whose history could not be written is no pass, and no known finding excuses it."""

from pathlib import Path
from typing import Any

import pytest

from ftharness.history import History, RunPhase
from ftharness.scenario.record import KNOWN, Annotation, ScenarioRecord, Verdict
from ftharness.scenario.runner import kept


@pytest.mark.parametrize("verdict, becomes, kinds", [("pass", "unknown", [KNOWN]), ("fail", "fail", ["known_in_part"])])
def test_what_could_not_be_written_is_no_pass(verdict: Verdict, becomes: str, kinds: list[str], tmp_path: Path) -> None:
    with History(tmp_path / "history.jsonl") as history:
        note = Annotation(kind=KNOWN, reason="seen before")
        record = ScenarioRecord(name="a/b", stack="sim", verdict=verdict, annotations=[note])
        assert kept(record, history) == record
    full: Any = History(Path("/dev/full"))  # every write to it fails as on a full disk
    with full:
        full.append(RunPhase(source="harness", phase="fault"))
        told = kept(record, full)
    assert told.verdict == becomes
    assert [one.kind for one in told.annotations] == kinds
    assert "could not be written" in (told.reason or told.annotations[0].reason)
