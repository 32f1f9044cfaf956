"""What is said of a sweep's course, and what is made of a worker's end."""

import signal
import subprocess
import sys
from typing import Any

import pytest

from ftharness.coordinator import Ending, ErrorClass
from ftharness.scenario import ScenarioRecord
from ftharness.scenario.record import Annotation
from ftharness.sweep import FinishedCell, Progress
from ftharness.sweep.local import diagnose


def finished(seconds: float, verdict: str = "pass", reason: str = "", *notes: Annotation) -> FinishedCell:
    record = ScenarioRecord(
        name="a/b",
        stack="sim",
        verdict=verdict,  # type: ignore[arg-type]
        reason=reason,
        duration_s=seconds,
        annotations=list(notes),
    )
    return FinishedCell("a/b sim vllm", seconds, record)


def test_the_rest_is_told_by_the_median() -> None:
    """Of what was finished earlier as well, by as many as run at once; one that was given up took no time."""
    progress = Progress(12, 2, [finished(2), finished(4), finished(90), finished(0, "unknown", "given up")])
    assert progress.line(finished(4)) == "[ 5/12] ✓ a/b sim vllm  4.0 s  (16 s left)"
    assert Progress(3, 1).left() == ""
    assert Progress(400, 1, [finished(40)]).left() == "4.4 h left"
    assert Progress(100, 1, [finished(40)]).left() == "66 min left"


def test_a_line_says_why() -> None:
    """What did not pass, in a few words; a known finding by its record; at the end nothing is left."""
    progress = Progress(2, 1)
    assert progress.line(finished(3, "fail", "tokens_exact(): 1 lost")) == (
        "[1/2] ✗ a/b sim vllm  3.0 s  tokens_exact(): 1 lost  (3 s left)"
    )
    known = Annotation(kind="known_finding", reason="its record")
    assert progress.line(finished(3, "fail", "x", known)) == "[2/2] ✗ a/b sim vllm  3.0 s  known finding: its record"


BEGINS, ENDS = {"begins": 3, "batch_idx": 3}, {"ends": 3}
DIAGNOSES = [
    ("killed at a cell", [BEGINS], -signal.SIGKILL, ErrorClass.POISON, 3),
    ("an exception at a cell", [BEGINS, {"status": "failed", "error_message": "no"}], 1, ErrorClass.POISON, 3),
    ("between two cells", [BEGINS, ENDS], -signal.SIGKILL, ErrorClass.TRANSIENT, None),
    ("after one that was refused", [BEGINS, {"refused": 3}], -signal.SIGSEGV, ErrorClass.TRANSIENT, None),
    ("told to end", [BEGINS], 143, ErrorClass.SPOT, 3),
]


@pytest.mark.parametrize(
    "reports,exitcode,kind,place", [one[1:] for one in DIAGNOSES], ids=[one[0] for one in DIAGNOSES]
)
def test_what_counts_against_a_cell(reports: list[dict[str, Any]], exitcode: int, kind: str, place: int | None) -> None:
    """Whatever ends a worker at it, but not that somebody told it to end, nor what befalls it elsewhere."""
    found = diagnose(Ending(exitcode, tuple(reports)))
    assert (found.kind, found.batch_idx) == (kind, place)


def test_a_sweep_needs_no_torch() -> None:
    """Neither its workers, which import what it imports."""
    code = "import sys, ftharness.sweep.worker, ftharness.sweep.local; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
