"""Planted bugs: one flag makes the stack misbehave in one way, so that an oracle can be seen to fail.

Each lives at the place in the code where such a bug would be, behind a test of its name, and shows only where a fault
strikes: the control run of the same scenario passes.
"""

from typing import NamedTuple


class Bug(NamedTuple):
    """A planted bug.

    Attributes:
        name: What ``--bug`` takes.
        scenario: The scenario that reveals it.
        oracle: The oracle that fails of it.
        sentence: What it does.
        where: The module that has it.
    """

    name: str
    scenario: str
    oracle: str
    sentence: str
    where: str


_FAILURE = "migration/worker_failure"
_DISABLED = "migration/disabled_worker_failure"
_MIGRATION = "frontend_migration.py"

_ALL = (
    Bug("drop-token", _FAILURE, "tokens_exact", "A migration loses the first token of the new stream.", _MIGRATION),
    Bug("duplicate-token", _FAILURE, "tokens_exact", "A migration sends the last token a second time.", _MIGRATION),
    Bug(
        "wrong-context",
        _FAILURE,
        "tokens_exact",
        "The next worker gets a context whose last token is another, so that it answers otherwise.",
        _MIGRATION,
    ),
    Bug(
        "restart-answer",
        _FAILURE,
        "tokens_exact",
        "The next worker gets the prompt alone, so that the answer starts again from its beginning.",
        _MIGRATION,
    ),
    Bug("migrate-beyond-limit", _DISABLED, "not_migrated", "A request migrates though its limit is spent.", _MIGRATION),
    Bug("no-finish-reason", _FAILURE, "succeeds", "A migrated stream ends without a finish_reason.", _MIGRATION),
    Bug("swallow-error", _DISABLED, "every_request_ends", "An error is swallowed: the request hangs.", _MIGRATION),
    Bug(
        "crash-after-success",
        _FAILURE,
        "exits_explained",
        "The worker that took a request over exits with 3 once it has answered.",
        "worker.py",
    ),
    Bug("orphan-engine", _FAILURE, "no_leaks", "An engine child outlives its handler.", "core.py"),
    Bug("busy-slot", _FAILURE, "no_leaks", "A slot stays busy after a migrated or cancelled request ended.", "core.py"),
)

#: By name.
BUGS: dict[str, Bug] = {bug.name: bug for bug in _ALL}
