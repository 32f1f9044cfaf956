"""``ftharness contract check``: which events of a contract the processes of a stack show today, or a log shows, and which not."""

from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from pathlib import Path

from ftharness.client import Request, chat, completion
from ftharness.faults import Target, kill
from ftharness.history import ContractChosen, History, Log
from ftharness.logs import Contract, Scanner
from ftharness.scenario.record import HISTORY_FILE
from ftharness.scenario.runner import Cell, Run
from ftharness.stack import StackKind

# What the three requests must show of every stack; the rest needs other circumstances.
EXPECTED = ("request_received", "migration_started", "client_disconnected", "request_aborted")
_TOKENS = 40
# Of the answer that nobody waits for: long enough to be left, and short enough for an engine that takes 2,048 in all.
_LONG = 1500


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
            cancelled = await run.send(ask(max_tokens=_LONG))
            await cancelled.token(5)
            await cancelled.cancel()
            migrated = await run.send(ask(max_tokens=_TOKENS * 3))
            await migrated.token(10)
            await run.nemesis.inject(kill(Target(role="serving", request=2)))
            await migrated.finished()
            run.ended("complete")
        finally:
            await run.teardown()
            if not history.events:  # nothing was begun: nothing is left that would look like a run
                (folder / HISTORY_FILE).unlink(missing_ok=True)
        return _findings(history)


def check_log(contract: Contract, path: Path) -> tuple[list[str], bool]:
    """Read a log that a process has left behind.

    Returns:
        As :func:`check_contract`.

    Raises:
        OSError: It cannot be read.
    """
    scanner = Scanner(contract)
    data = path.read_bytes()
    seen: dict[str, list[str]] = {}
    for match in (*scanner.feed(data, 0), *scanner.end(0)):
        seen.setdefault(match.event, []).append(match.line)
    known = set(contract.events)
    return [
        _chosen(contract.backend, contract.version, str(path), known=contract.known),
        *_table(known, seen),
    ], _complete(known, seen)


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
    seen: dict[str, list[str]] = {}
    for line in history.select(Log):
        seen.setdefault(line.event, []).append(f"{line.source}: {line.line}")
    known = {event for one in chosen for event in one.events}
    lines = sorted(_chosen(one.backend, one.version, one.source, known=one.known) for one in chosen)
    return [*lines, *_table(known, seen)], _complete(known, seen)


def _chosen(backend: str, version: str, source: str, *, known: bool) -> str:
    return f"contract  {backend} {version}{'' if known else ' (not written for this version)'}  {source}"


def _table(known: Iterable[str], seen: Mapping[str, list[str]]) -> list[str]:
    """A line for each event: how often it was seen, and what said it first."""
    events = sorted(known)
    wide = max(map(len, events), default=0)
    lines = []
    for event in events:
        found = seen.get(event, [])
        mark = f"seen {len(found)}x" if found else "MISSING" if event in EXPECTED else "not seen"
        lines.append(f"{mark:<9} {event:<{wide}}  {found[0][:120] if found else ''}".rstrip())
    return lines


def _complete(known: Iterable[str], seen: Mapping[str, list[str]]) -> bool:
    return not {event for event in EXPECTED if event in known} - seen.keys()
