"""``run.json``: what was run and what came of it."""

from pathlib import Path

import msgspec

from ftharness.report.atomic import write_atomically
from ftharness.scenario.record import (
    HISTORY_FILE,
    IN_PART,
    KNOWN,
    LIKE,
    MENDED,
    NOT_SEEN,
    PLANTED,
    Annotation,
    ScenarioRecord,
    Verdict,
)

RUN_FILE = "run.json"
SCHEMA = 1
#: How a verdict is shown, on a terminal as on the page.
MARKS: dict[Verdict, str] = {"pass": "✓", "fail": "✗", "unknown": "?"}
# Annotations that say: look at it, but it is no reason to stop. Quarantine is for whoever picks what gates, not for us.
EXCUSES = (KNOWN, "not_applicable")
# Those of known findings, in the order in which they are told.
FINDINGS = (KNOWN, IN_PART, LIKE, NOT_SEEN, MENDED)


class RunError(Exception):
    """A folder cannot be read as a run; the message says what is wrong with it and what to try."""


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What ``run.json`` holds: the scenarios of one call, and the verdict over all of them.

    Attributes:
        schema: The version of this format.
        ftharness: The version that ran it.
        seed: What the run's random choices came from.
        started_at: ISO 8601, with the offset.
        verdict: The worst of the scenarios'.
        scenarios: In the order in which they were run.
    """

    schema: int = SCHEMA
    ftharness: str = ""
    seed: int = 0
    started_at: str = ""
    verdict: Verdict
    scenarios: list[ScenarioRecord] = []


_decoder = msgspec.json.Decoder(RunRecord)


class _Version(msgspec.Struct):
    schema: int = SCHEMA


def write_run(folder: Path, record: RunRecord) -> None:
    """Write ``run.json``, readable for people too.

    Raises:
        ReportError: It cannot be written.
    """
    write_atomically(folder / RUN_FILE, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")


def read_run(folder: Path) -> RunRecord:
    """The record of a stored run.

    Raises:
        RunError: There is no run in this folder, it is damaged, or a newer ftharness wrote it.
    """
    path = folder / RUN_FILE
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(_not_a_run(folder)) from None
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    try:
        schema = msgspec.json.decode(data, type=_Version).schema
        if schema > SCHEMA:
            raise RunError(f"{path} has schema {schema}, this ftharness reads up to {SCHEMA}: use a newer ftharness")
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is damaged: {error}") from error


def _not_a_run(folder: Path) -> str:
    if not folder.exists():
        return f"{folder} does not exist"
    if not folder.is_dir():
        return f"{folder} is not a folder; a run is a folder with a {RUN_FILE}"
    if (folder / HISTORY_FILE).exists() and (folder.parent / RUN_FILE).exists():
        return f"{folder} is a part of the run {folder.parent}, whose {RUN_FILE} has its verdict"
    if (folder / HISTORY_FILE).exists():
        return f"{folder} has a history but no {RUN_FILE}: its run was cut short; `ftharness check {folder}` judges what is there"
    inside = sorted(path.parent for path in folder.glob(f"*/{RUN_FILE}"))
    nearest = f"; did you mean {inside[-1]}?" if inside else ""
    return f"{folder} is not a run: it has no {RUN_FILE}{nearest}"


def excuse(scenario: ScenarioRecord) -> Annotation | None:
    """The annotation for which a verdict other than pass does not count: a known finding, or it does not apply."""
    return next((note for note in scenario.annotations if note.kind in EXCUSES), None)


def counts_as(scenario: ScenarioRecord) -> Verdict:
    """What a verdict counts as: a failure that is known, and what does not apply, as a pass.

    Where all that failed is known, but the rest was not tested, that is what is left of it: ``unknown``.
    """
    if excuse(scenario) is not None:
        return "pass"
    failed = [one for one in scenario.oracles if one.verdict == "fail"]
    if scenario.verdict == "fail" and failed and all(one.known for one in failed):
        return "unknown"
    return scenario.verdict


def of_findings(scenario: ScenarioRecord) -> list[Annotation]:
    """What there is to say of known findings."""
    return [note for kind in FINDINGS for note in scenario.annotations if note.kind == kind]


def planted(scenario: ScenarioRecord) -> str:
    """``bug NAME``, and where it is revealed if not here; "" where the stack was not told to misbehave."""
    return next((f"bug {note.reason}" for note in scenario.annotations if note.kind == PLANTED), "")


def exit_status(record: RunRecord) -> int:
    """What the command line ends with: 0 all pass or are excused, 1 some fail, 3 some are unknown and none fail.

    ``junit.xml`` counts the same way. A run without scenarios tested nothing, so it is unknown.
    """
    counting = [counts_as(scenario) for scenario in record.scenarios]
    if "fail" in counting:
        return 1
    return 3 if "unknown" in counting or not record.scenarios else 0
