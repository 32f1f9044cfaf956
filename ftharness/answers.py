"""How a command ends: its exit status, and the sentence that says why."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from ftharness.sentence import sentence

if TYPE_CHECKING:
    from ftharness.report import RunRecord

PASSED, FAILED, WRONG, UNKNOWN, INTERRUPTED = 0, 1, 2, 3, 130


def die(message: object, status: int = WRONG) -> NoReturn:
    """End with a message on standard error."""
    typer.echo(f"ftharness: {message}", err=True)
    raise typer.Exit(status)


def folder_of(given: str) -> Path:
    """An option's folder. An empty name, as of a variable that is not set, would be the folder where one is."""
    if not given:
        raise typer.BadParameter("is empty")
    return Path(given)


def status_of(record: "RunRecord", trouble: str = "", refused: Sequence[Exception] = ()) -> int:
    """A failure that was seen outweighs a part of the call that was wrong, and that outweighs what was not tested."""
    from ftharness.report import exit_status  # noqa: PLC0415 - what a command imports, it imports when it is called
    from ftharness.stack import NotAvailable  # noqa: PLC0415

    status = exit_status(record)
    if status != FAILED and any(not isinstance(error, NotAvailable) for error in refused):
        return WRONG
    return UNKNOWN if (trouble or refused) and status == PASSED else status


@contextmanager
def said() -> Iterator[None]:
    """Errors that are the caller's, or that say what is missing, become a message and a status."""
    from ftharness.logs import ContractError, TomlError  # noqa: PLC0415
    from ftharness.report import ReportError, RunError  # noqa: PLC0415
    from ftharness.scenario.library import ScenarioFileError  # noqa: PLC0415
    from ftharness.stack import NotAvailable  # noqa: PLC0415

    try:
        yield
    except NotAvailable as error:
        die(error, UNKNOWN)
    except (
        TomlError,
        ContractError,
        ScenarioFileError,
        RunError,
        ReportError,
        LookupError,
        ValueError,
        OSError,
    ) as error:
        die(sentence(error))
