"""The record of one scenario that was run and judged: its entry in ``run.json``.

The field names are the format that others read; a rename breaks them.
"""

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

#: The files of a scenario's folder that are read again.
HISTORY_FILE, CELL_FILE = "history.jsonl", "scenario.json"
#: The annotation that names the bug with which the stack was run.
PLANTED = "planted_bug"
#: Those of known findings: all that failed is known; not all; a known one looks the same, on other versions; it did not show; a
#: later version does not have it.
KNOWN, IN_PART, LIKE = "known_finding", "known_in_part", "like_a_finding"
NOT_SEEN, MENDED = "finding_not_seen", "finding_mended"

Verdict = Literal["pass", "fail", "unknown"]


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Of several verdicts the one that counts: fail over unknown over pass; of none it is unknown, nothing was tested."""
    seen = set(verdicts)
    if "fail" in seen:
        return "fail"
    return "pass" if seen == {"pass"} else "unknown"


class Recovery(msgspec.Struct, frozen=True, kw_only=True):
    """How a fault was recovered from, in milliseconds since it landed; None where it did not happen.

    Attributes:
        detect_ms: The frontend noticed.
        reroute_ms: Another worker got the request.
        first_token_ms: The first token after it reached the client.
        max_gap_ms: The longest time without a token, of any request that was running.
        given_up_ms: Of a client that went away: the last worker said that it gave the request up.
        given_up_by: That worker.
        told: Those of the other phase that said that they were told, with commas.
    """

    detect_ms: float | None = None
    reroute_ms: float | None = None
    first_token_ms: float | None = None
    max_gap_ms: float | None = None
    given_up_ms: float | None = None
    given_up_by: str = ""
    told: str = ""


class FaultRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One fault on one process; of one that was aimed at several there is an entry for each, with the same ``id``.

    Times are nanoseconds since the run's start. ``landed_ns`` is None when it did not land. ``process`` is the name of the
    process that it hit or was meant to hit, empty where its target was never found.
    """

    id: str = ""
    kind: str
    target: str
    process: str = ""
    trigger: str
    requested_ns: int | None = None
    landed_ns: int | None = None
    on_target: bool = True
    evidence: dict[str, Any] = {}
    missed: str = ""
    recovery: Recovery = Recovery()


class TokenCount(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens over all requests of the fault phase; lost, duplicated and altered are None where they cannot be told."""

    expected: int | None = None
    received: int = 0
    lost: int | None = None
    duplicated: int | None = None
    altered: int | None = None


class OracleRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What one oracle said.

    Attributes:
        name: The expectation, with its arguments.
        verdict: Its verdict.
        reason: For a person.
        evidence: The numbers (``n``) of the history's events that it rests on.
        known: The names of the known findings that explain why it is no pass.
    """

    name: str
    verdict: Verdict
    reason: str
    evidence: list[int] = []
    known: list[str] = []


class Annotation(msgspec.Struct, frozen=True, kw_only=True):
    """What else there is to say beside a verdict.

    Attributes:
        kind: ``not_applicable``, ``known_finding``, ``known_in_part``, ``like_a_finding``, ``finding_not_seen``,
            ``finding_mended``, ``quarantined``, ``documented_behaviour``, ``planted_bug``, ``no_fault`` or ``client_left``.
        reason: For a person.
    """

    kind: str
    reason: str


class ScenarioRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario on one stack, run once. ``path`` is its folder, relative to the run's; ``.`` is the run's itself."""

    name: str
    stack: str
    engine: str = ""
    sut_version: str = ""
    params: dict[str, Any] = {}
    path: str = "."
    verdict: Verdict
    reason: str = ""
    annotations: list[Annotation] = []
    duration_s: float = 0.0
    faults: list[FaultRecord] = []
    tokens: TokenCount = TokenCount()
    oracles: list[OracleRecord] = []
    leaks: list[str] = []
    drift: list[str] = []
