"""``ftharness contract check``: which events of a stack's contract its processes show today, and which not."""

from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

from ftharness.client import Request, chat, completion
from ftharness.faults import Target, kill
from ftharness.history import ContractChosen, History, Log
from ftharness.scenario.record import HISTORY_FILE
from ftharness.scenario.runner import Cell, Run
from ftharness.stack import StackKind

# What the three requests must show of every stack; the rest needs other circumstances.
EXPECTED = ("request_received", "migration_started", "client_disconnected", "request_aborted")
_TOKENS = 40


async def check_contract(kind: StackKind, cell: Cell, folder: Path) -> tuple[list[str], bool]:
    """Drive one clean, one cancelled and one migrated request.

    Returns:
        What to print, a line each; and whether everything of ``EXPECTED`` that the contract has was seen.

    Raises:
        NotAvailable: What the stack needs is not installed.
        LookupError: The stack did not start, it answers no request, or no worker said that it took the request.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with History(folder / HISTORY_FILE) as history:
        run = Run(cell, kind, folder, history, lambda _: None)
        try:
            await run.launch()
            await run.begin_faults()
            ask = await _endpoint(run)
            cancelled = await run.send(ask(max_tokens=4000))
            await cancelled.token(5)
            await cancelled.cancel()
            migrated = await run.send(ask(max_tokens=_TOKENS * 3))
            await migrated.token(10)
            await run.nemesis.inject(kill(Target(role="serving", request=2)))
            await migrated.finished()
            run.ended("complete")
        finally:
            await run.teardown()
        return _findings(history)


async def _endpoint(run: Run) -> Callable[..., Request]:
    """The first kind of request that the stack answers; the one that it did is the clean one."""
    said = []
    for ask in (completion, chat):
        clean = await run.send(ask(max_tokens=_TOKENS))
        result = await clean.finished()
        if result.outcome == "success":
            return ask
        said.append(f"a {clean.request.endpoint}: {result.outcome} {result.error}".rstrip())
        if result.status != HTTPStatus.NOT_FOUND:
            break
    raise LookupError(
        f"the stack is ready, and answers no request ({'; '.join(said)}); what its processes said is in {run.history.path}"
    )


def _findings(history: History) -> tuple[list[str], bool]:
    chosen = list(history.select(ContractChosen))
    seen: dict[str, list[Log]] = {}
    for line in history.select(Log):
        seen.setdefault(line.event, []).append(line)
    lines = sorted(
        f"contract  {one.backend} {one.version}{'' if one.known else ' (not written for this version)'}  {one.source}"
        for one in chosen
    )
    known = sorted({event for one in chosen for event in one.events})
    wide = max(map(len, known), default=0)
    for event in known:
        found = seen.get(event, [])
        mark = f"seen {len(found)}x" if found else "MISSING" if event in EXPECTED else "not seen"
        lines.append(
            f"{mark:<9} {event:<{wide}}  {found[0].source + ': ' + found[0].line[:110] if found else ''}".rstrip()
        )
    missing = [event for event in EXPECTED if event in known and event not in seen]
    return lines, not missing
