"""Reports: what a run leaves for people and for other programs."""

from ftharness.report.atomic import ReportError
from ftharness.report.run import RUN_FILE, RunError, RunRecord, exit_status, read_run, write_run
from ftharness.report.story import story
from ftharness.report.write import write_report

__all__ = [
    "RUN_FILE",
    "ReportError",
    "RunError",
    "RunRecord",
    "exit_status",
    "read_run",
    "story",
    "write_report",
    "write_run",
]
