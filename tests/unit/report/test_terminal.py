"""What a person reads on the terminal: a line for what passed, a story for what did not, whatever they are called."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from ftharness.report import RunRecord, compare
from ftharness.report.run import MARKS
from ftharness.scenario.record import Recovery, ScenarioRecord
from ftharness.telling import Telling

Make = Callable[..., RunRecord]
RecordOf = Callable[[list[ScenarioRecord]], RunRecord]

NASTY = "a\u202eb\x1b[31m\x07\x9b2J\r\nc"
HARMLESS = set(map(chr, [*range(32, 127), *map(ord, "\n✓✗→…·–“”\u240d\u2407\ufffd\u27e8\u27e9")]))


def nasty(record: ScenarioRecord) -> ScenarioRecord:
    """The same, with terminal escapes and turns of direction wherever others' words can be."""
    fault = msgspec.structs.replace(record.faults[0], kind=NASTY, target=NASTY, trigger=NASTY, process="")
    oracles = [msgspec.structs.replace(one, name=NASTY, reason=NASTY) for one in record.oracles]
    words = dict.fromkeys(("name", "stack", "engine", "sut_version", "reason"), NASTY)
    return msgspec.structs.replace(record, **words, faults=[fault], oracles=oracles, drift=[NASTY], leaks=[NASTY])


@pytest.mark.parametrize("ending", ["pass", "drop", "hang"])
def test_no_name_reaches_the_terminal_as_it_is(
    make: Make, record_of: RecordOf, tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    """Neither in a line, nor in a story, a comparison or a trouble of the harness's own."""
    record = nasty(make({"ending": ending, "tokens": 80, "text": NASTY}).scenarios[0])
    telling = Telling(2)
    telling.told(record, tmp_path)
    telling.summary(record_of([record]), tmp_path, f"the harness failed: {NASTY}")
    lines = compare(record_of([record]), record_of([record, record])).lines
    said = "".join([*capsys.readouterr(), *lines])
    assert set(said) <= HARMLESS
    assert "a⟨U+202E⟩b" in said


def test_a_pass_is_one_line(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the name is not."""
    record = msgspec.structs.replace(make({"tokens": 80}).scenarios[0], name="two\nlines")
    Telling(1).told(record, tmp_path)
    said = capsys.readouterr().out
    assert said.startswith(f"{MARKS['pass']} two lines  sim vllm 0.1.0  ")
    assert said.count("\n") == 1


def test_a_pass_says_how_the_stream_went_on(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a drain, in which no token was late, the longest gap; of several faults, how many more there were."""
    record = make({"tokens": 80}).scenarios[0]
    drain = msgspec.structs.replace(
        record.faults[0], kind="terminate", recovery=Recovery(detect_ms=980.4, max_gap_ms=5.7)
    )
    Telling(1).told(msgspec.structs.replace(record, faults=[drain]), tmp_path)
    assert "  terminate serving (worker-1), longest gap 5.70 ms; 80 tokens exact\n" in capsys.readouterr().out
    Telling(1).told(msgspec.structs.replace(record, faults=[*record.faults, drain]), tmp_path)
    assert "  kill serving (worker-1) and 1 more fault, next token " in capsys.readouterr().out
