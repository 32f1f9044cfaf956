"""All the files of a report, in the order in which the most important one is there first."""

from pathlib import Path

from ftharness.report.atomic import write_atomically
from ftharness.report.page import PAGE_FILE, Page
from ftharness.report.run import RunRecord, write_run
from ftharness.report.stored import read_stored


def write_report(folder: Path, record: RunRecord) -> Path:
    """Write what a run leaves for others; returns the page.

    Raises:
        ReportError: One of the files cannot be written.
    """
    write_run(folder, record)
    page = Page(record)
    for place, scenario in enumerate(record.scenarios):
        page.add(place, read_stored(folder, scenario))
    write_atomically(folder / PAGE_FILE, page.render())
    return folder / PAGE_FILE
