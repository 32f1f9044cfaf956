"""What a process says, as events of the history: read by its contract, without secrets."""

from collections.abc import Callable

from ftharness.history import ContractChosen, History, Log
from ftharness.logs import Contract, Scanner


def log_reader(
    history: History, name: str, contract: Contract, clean: Callable[[str], str]
) -> Callable[[bytes, int], None]:
    """Note in ``history`` which contract reads ``name``, and return what takes its output as it is read.

    Args:
        history: Gets an event a line that the contract knows.
        name: The process's; the events' source.
        contract: What its lines mean.
        clean: Takes the secrets out of a text.

    Returns:
        Takes bytes, and CLOCK_MONOTONIC (ns) of their read; no bytes are the end.
    """
    history.append(
        ContractChosen(
            source=name,
            backend=contract.backend,
            version=contract.version,
            known=contract.known,
            events=list(contract.events),
        )
    )
    scanner = Scanner(contract)

    def sink(data: bytes, at: int) -> None:
        for match in scanner.feed(data, at) if data else scanner.end(at):
            captures = {key: clean(value) for key, value in match.captures.items()}
            history.append(Log(source=name, event=match.event, captures=captures, line=clean(match.line)), at=match.t)

    return sink
