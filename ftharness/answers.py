"""How a command ends: its exit status, and the sentence that says why."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from ftharness.sentence import sentence

PASSED, FAILED, WRONG, UNKNOWN, INTERRUPTED = 0, 1, 2, 3, 130


def die(message: object, status: int = WRONG) -> NoReturn:
    """End with a message on standard error."""
    typer.echo(f"ftharness: {message}", err=True)
    raise typer.Exit(status)


@contextmanager
def said() -> Iterator[None]:
    """Errors that are the caller's, or that say what is missing, become a message and a status."""
    from ftharness.logs import ContractError, TomlError  # noqa: PLC0415 - what a command imports, it imports when it is called
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
