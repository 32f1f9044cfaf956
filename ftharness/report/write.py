"""All the files of a report, in the order in which the most important one is there first."""

from pathlib import Path

from ftharness.report.run import RunRecord, write_run


def write_report(folder: Path, record: RunRecord) -> Path:
    """Write what a run leaves for others; returns the page.

    Raises:
        ReportError: One of the files cannot be written.
    """
    write_run(folder, record)
    return folder / "report.html"
