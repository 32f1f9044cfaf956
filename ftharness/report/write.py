"""All the files of a report, in the order in which the most important one is there first."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from ftharness.report.atomic import ReportError, write_atomically
from ftharness.report.run import RunRecord, write_run
from ftharness.report.stored import TRACE_FILE, read_stored
from ftharness.report.story import story
from ftharness.scenario.record import ScenarioRecord


def prepare() -> None:
    """Import what writing needs, and read the page's templates: best done while there is nothing else to do."""
    from ftharness.report import junit, page, trace  # noqa: F401, PLC0415

    page.read_templates()


def write_report(folder: Path, record: RunRecord) -> Path:
    """Write what a run leaves for others: ``run.json``, each scenario's ``trace.json``, ``junit.xml``, ``report.html``.

    Returns:
        The page.

    Raises:
        ReportError: Some of the files cannot be written; it names the first. The others are there all the same.
    """
    # What draws and renders is imported once there is something to be drawn: most commands write no report.
    from ftharness.report.junit import JUNIT_FILE, Junit  # noqa: PLC0415
    from ftharness.report.page import PAGE_FILE, Page  # noqa: PLC0415
    from ftharness.report.trace import trace  # noqa: PLC0415

    trouble: list[Exception] = []

    def attempt(what: str, write: Callable[[], None]) -> None:
        try:
            write()
        except ReportError as error:
            trouble.append(error)
        except Exception as error:  # noqa: BLE001 - a picture that cannot be drawn must not cost the verdict
            failed = ReportError(f"cannot make {folder / what}: {type(error).__name__}: {error}")
            failed.__cause__ = error
            trouble.append(failed)

    def add(place: int, scenario: ScenarioRecord) -> None:
        stored = read_stored(folder, scenario)
        if stored.events:
            attempt(
                f"{scenario.path}/{TRACE_FILE}", lambda: write_atomically(stored.folder / TRACE_FILE, trace(stored))
            )
        told = "" if scenario.verdict == "pass" else story(scenario, stored.events, folder)
        junit.add(scenario, told)
        page.add(place, stored)

    attempt("run.json", lambda: write_run(folder, record))
    junit, page = Junit(record), Page(record)
    for place, scenario in enumerate(record.scenarios):
        attempt(f"{PAGE_FILE} ({scenario.name})", partial(add, place, scenario))
    attempt(JUNIT_FILE, lambda: write_atomically(folder / JUNIT_FILE, junit.render()))
    attempt(PAGE_FILE, lambda: write_atomically(folder / PAGE_FILE, page.render()))
    if trouble:
        more = f" (and {len(trouble) - 1} more files)" if len(trouble) > 1 else ""
        raise ReportError(f"{trouble[0]}{more}") from trouble[0]
    return folder / PAGE_FILE
