"""One request and one fault of a run, each with what became of it."""

from collections.abc import Iterator
from typing import NamedTuple

from ftharness.faults import HARMLESS
from ftharness.history import (
    FaultHealed,
    FaultLanded,
    FaultMissed,
    FaultRequested,
    Log,
    RequestChunk,
    RequestFinished,
    RequestSent,
)


class RequestView(NamedTuple):
    """One request, and what became of it."""

    sent: RequestSent
    chunks: list[RequestChunk]
    finished: RequestFinished | None

    @property
    def id(self) -> str:
        """The request's id."""
        return self.sent.request

    def is_named_in(self, line: Log) -> bool:
        """Whether a line names the request, or a choice of it, whose name begins with the request's."""
        return line.captures.get("request", "").startswith(self.id)

    @property
    def name(self) -> str:
        """For a person: its place in the workload and the begin of its id."""
        return f"request {self.sent.index} ({self.id[:8]})"

    @property
    def choices(self) -> int:
        """How many choices were asked for."""
        return int(self.sent.body.get("n") or 1)

    @property
    def stops(self) -> list[str]:
        """The strings that end its answer."""
        stops = self.sent.body.get("stop") or []
        return [stops] if isinstance(stops, str) else list(stops)

    def text(self, choice: int = 0) -> str:
        """The text of one choice."""
        return "".join(chunk.text for chunk in self.chunks if chunk.choice == choice)

    @property
    def tokens(self) -> int:
        """Tokens received, all choices."""
        return sum(chunk.tokens for chunk in self.chunks)

    def gaps(self) -> Iterator[tuple[RequestChunk, RequestChunk]]:
        """Each two chunks of a choice between which none of its others came."""
        last: dict[int, RequestChunk] = {}
        for chunk in self.chunks:
            if chunk.choice in last:
                yield last[chunk.choice], chunk
            last[chunk.choice] = chunk

    @property
    def left(self) -> bool:
        """Whether its client went away."""
        return self.finished is not None and self.finished.outcome == "cancelled"

    @property
    def how_it_ended(self) -> str:
        """For a person."""
        end = self.finished
        if end is None:
            return "it did not end"
        code = f", SSE error {end.error_code}" if end.error_code is not None else ""
        status = f" (HTTP {end.status}{code})" if end.status is not None else ""
        return f"{end.outcome}{status} after {self.tokens} tokens{f': {end.error}' if end.error else ''}"


class FaultView(NamedTuple):
    """One fault on one process, and whether it landed there."""

    requested: FaultRequested
    landed: FaultLanded | None
    missed: FaultMissed | None
    healed: FaultHealed | None

    @property
    def process(self) -> str:
        """The name of the process that it hit, or was meant to hit; "" where its target was never found."""
        source = (self.landed or self.missed or self.requested).source
        return "" if source == self.requested.source else source  # the harness asks, a process is hit

    @property
    def on_process(self) -> bool:
        """Whether it was a process of the stack that it hit or was meant to hit, and not a client."""
        return self.process not in ("", "client")

    @property
    def broke(self) -> bool:
        """Whether it landed, and was one: not a look, nor the start of something."""
        return self.landed is not None and self.requested.fault not in HARMLESS

    @property
    def trouble(self) -> str:
        """Why nothing can be concluded from it; "" when it landed where it was aimed."""
        if self.landed is None:
            why = self.missed.reason if self.missed else "no evidence that it landed"
            return f"fault {self.requested.fault} on {self.requested.target} did not land: {why}"
        if not self.landed.on_target and self.landed.evidence.get("request") == "was done with there":
            return f"fault {self.requested.fault} landed on {self.process}, which was done with the request"
        if not self.landed.on_target:
            return f"fault {self.requested.fault} landed after the request it was aimed at had ended"
        return ""
