"""The command ``ftharness sweep``."""

import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftharness.answers import INTERRUPTED, PASSED, UNKNOWN, die, folder_of, said, status_of

if TYPE_CHECKING:  # a command imports what it needs when it is called
    from ftharness.sweep import FinishedCell, Planned, Sweep, SweepFolder
    from ftharness.telling import Telling


def sweep(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="The sweep's TOML file; docs/sweeps.md says more.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=folder_of,
            metavar="PATH",
            help="The sweep's folder [default: as the file has it, or a new one under reports/].",
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            parser=folder_of, metavar="FOLDER", help="Go on with the sweep that was begun there, by its own file."
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="So many cells at once [default: as the file has it, or 1].")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN", help="Only cells of such names, such as 'migration/* sim vllm'; may be repeated."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the cells' names, and run nothing.")] = False,
    force_restart: Annotated[
        bool, typer.Option("--force-restart", help="Remove what the sweep's folder has of a sweep, and begin anew.")
    ] = False,
) -> None:
    """Run a matrix of scenarios, cell by cell; one that was ended is gone on with by the same call.

    What is finished in the folder is not run again. The report is over all that is finished there.
    """
    from ftharness.checkpoint import CheckpointError
    from ftharness.report.clean import plain
    from ftharness.session import new_folder
    from ftharness.sweep import SweepFolder, chosen, file_of, load

    with said():
        if (file is None) == (resume is None):
            die("either the FILE of a sweep, or --resume FOLDER of one that was begun")
        if resume is not None and out is not None:
            die("--resume names the folder: --out is for a FILE")
        found = load(file or file_of(resume or Path()))
        for words in found.left_out:
            typer.echo(f"ftharness: {plain(words, 10_000)}", err=True)
        cells = chosen(found.cells, only or ())
        root = resume or out or (Path(found.file.out) if found.file.out else None)
        if dry_run:
            _print(cells, None if root is None or force_restart else SweepFolder(root), found)
            raise typer.Exit(PASSED)
        root = root or new_folder(found.file.name or found.path.stem)
        try:
            status = _run(found, cells, root, jobs or found.file.jobs, force_restart=force_restart)
        except CheckpointError as error:
            die(error, UNKNOWN)
    raise typer.Exit(status)


def _print(cells: "Sequence[Planned]", folder: "SweepFolder | None", found: "Sweep") -> None:
    """The names, for people and for ``--only``; how many, and how many are finished, is not for a pipe."""
    from ftharness.sweep.plan import plan_of

    finished = 0
    if folder is not None and folder.root.exists():
        folder.compare(plan_of(found.path, found.cells, ""))
        done = folder.finished().keys() - folder.unproved().keys()
        finished = sum(cell.place in done for cell in cells)
    for cell in cells:
        typer.echo(cell.name)
    typer.echo(f"ftharness: {len(cells)} of {len(found.cells)} cells, {finished} of them finished", err=True)


def _run(found: "Sweep", cells: "Sequence[Planned]", root: Path, jobs: int, *, force_restart: bool) -> int:
    from ftharness.report.clean import plain
    from ftharness.session import untried
    from ftharness.sweep import LocalExecutor, opened, run_sweep
    from ftharness.telling import Telling

    for words in dict.fromkeys(untried(cell.cell) for cell in cells):
        if words:
            typer.echo(f"ftharness: {plain(words)}", err=True)
    with opened(root) as folder:
        telling = Telling(len(cells))
        told = _Told(telling, len(cells), jobs)
        if force_restart:
            folder.forget()
        try:
            swept = run_sweep(found, cells, folder, LocalExecutor(jobs), told)
        finally:
            telling.close()
        if told.before:
            typer.echo(f"{told.before} of {len(cells)} cells were finished before")
        if not swept.record.scenarios:
            typer.echo("UNKNOWN  no cell is finished")
        else:
            telling.summary(swept.record, root, swept.trouble)
    if swept.interrupted:
        typer.echo(f"go on with  ftharness sweep --resume {shlex.quote(str(root))}")
        return INTERRUPTED
    return status_of(swept.record, swept.trouble, swept.refused)


class _Told:
    """Tells a person: a line a cell, how far it is, and a spinner where somebody looks.

    Attributes:
        before: So many cells were finished before.
    """

    def __init__(self, telling: "Telling", count: int, jobs: int) -> None:
        from ftharness.sweep import Progress

        self.before = 0
        self._telling = telling
        self._count = count
        self._jobs = jobs
        self._progress = Progress(count, jobs)

    def waits(self) -> None:
        """Why nothing happens."""
        typer.echo("ftharness: the workers of a sweep that was ended still stop their stacks; waiting", err=True)

    def goes_on(self, done: "Sequence[FinishedCell]", mended: Sequence[str]) -> None:
        """What was wrong with the folder; what is finished counts, and tells how long one takes."""
        from ftharness.report.clean import one_line
        from ftharness.sweep import Progress

        for words in mended:
            typer.echo(f"ftharness: {one_line(words, 400)}", err=True)
        self.before = len(done)
        self._progress = Progress(self._count, self._jobs, done)

    def begins(self, cell: "Planned") -> None:
        """A spinner."""
        self._telling.begins(cell.cell, min(self._progress.place, self._count), self._count)

    def ended(self, cell: "Planned", finished: "FinishedCell") -> None:
        """Its line."""
        del cell
        self._telling.close()
        typer.echo(self._progress.line(finished))
        sys.stdout.flush()

    def refused(self, cell: "Planned", error: Exception) -> None:
        """Why it was not run."""
        self._telling.refused(cell.cell, error)

    def lost(self, cell: "Planned | None", why: str, next_step: str) -> None:
        """What befell a worker."""
        from ftharness.report.clean import one_line

        self._telling.close()
        at = one_line(cell.name, 200) if cell else "between two cells"
        typer.echo(f"ftharness: {at}: its worker ended: {one_line(why)}{next_step and f'; {next_step}'}", err=True)

    def interrupted(self, came_before: int) -> None:
        """By a signal, which comes between any two steps: so in one write."""
        words = "ended at once" if came_before else "interrupted: stopping what runs; once more ends it at once"
        with suppress(OSError):
            os.write(2, f"\nftharness: {words}\n".encode())
