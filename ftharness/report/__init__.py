"""Reports: what a run leaves for people and for other programs."""

from ftharness.report.atomic import ReportError
from ftharness.report.compare import Comparison, compare
from ftharness.report.kept import Kept, read_kept
from ftharness.report.run import RUN_FILE, RunError, RunRecord, excuse, exit_status, of_findings, read_run, write_run
from ftharness.report.schema import run_schema
from ftharness.report.story import story
from ftharness.report.write import prepare, write_report

__all__ = [
    "RUN_FILE",
    "Comparison",
    "Kept",
    "ReportError",
    "RunError",
    "RunRecord",
    "compare",
    "excuse",
    "exit_status",
    "of_findings",
    "prepare",
    "read_kept",
    "read_run",
    "run_schema",
    "story",
    "write_report",
    "write_run",
]
