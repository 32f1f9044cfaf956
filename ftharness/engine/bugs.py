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
        oracle: The oracle that is there for it.
        sentence: What it does.
        where: The module that has it.
        also: Other oracles that it fails, since what it does has more than one consequence.
    """

    name: str
    scenario: str
    oracle: str
    sentence: str
    where: str
    also: tuple[str, ...] = ()


_FAILURE = "migration/worker_failure"
_DISABLED = "migration/disabled_worker_failure"
_PREFILL = "migration/prefill_failure"
_DRAIN = "migration/drain"
_MIGRATION = "frontend_migration.py"
_WORKER = "worker.py"

_ALL = (
    Bug(
        "drop-token",
        _FAILURE,
        "tokens_exact",
        "A migration loses the first token of the new stream.",
        _MIGRATION,
        ("usage_correct",),
    ),
    Bug(
        "duplicate-token",
        _FAILURE,
        "tokens_exact",
        "A migration sends the last token a second time.",
        _MIGRATION,
        ("usage_correct",),
    ),
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
        ("usage_correct",),
    ),
    Bug(
        "give-up-quietly",
        _FAILURE,
        "migrated",
        "A request whose worker is lost is ended as if it were complete.",
        _MIGRATION,
        ("tokens_exact", "usage_correct", "recovers_within", "logged"),
    ),
    Bug(
        "migrate-beyond-limit",
        _DISABLED,
        "not_migrated",
        "A request migrates though its limit is spent.",
        _MIGRATION,
        ("fails_with", "logged"),
    ),
    Bug(
        "no-finish-reason",
        _FAILURE,
        "succeeds",
        "A migrated stream ends without a finish_reason.",
        _MIGRATION,
        ("usage_correct",),
    ),
    Bug("wrong-usage", _FAILURE, "usage_correct", "Usage counts only the tokens since the migration.", _MIGRATION),
    Bug("silent-migration", _FAILURE, "logged", "A migration is neither logged nor counted.", _MIGRATION),
    Bug(
        "slow-migration",
        _FAILURE,
        "recovers_within",
        "A stream whose worker is lost waits 3 s before it goes on elsewhere.",
        _MIGRATION,
    ),
    Bug(
        "slow-retry",
        _PREFILL,
        "ttft_within",
        "A request whose worker is lost before its first token waits 3 s before it is tried elsewhere.",
        _MIGRATION,
        ("recovers_within",),
    ),
    Bug(
        "wrong-status",
        _DISABLED,
        "fails_with",
        "A request that may not migrate fails with 418 instead of 500.",
        _MIGRATION,
    ),
    Bug(
        "swallow-error",
        _DISABLED,
        "every_request_ends",
        "An error is swallowed: the request hangs.",
        _MIGRATION,
        ("fails_with",),
    ),
    Bug(
        "crash-after-success",
        _FAILURE,
        "exits_explained",
        "The worker that took a request over exits with 3 once it has answered.",
        _WORKER,
    ),
    Bug(
        "wrong-exit",
        _DRAIN,
        "exits_as",
        "A worker that has drained exits with 7.",
        _WORKER,
        ("exits_explained",),
    ),
    Bug("stall-in-drain", _DRAIN, "gap_within", "A draining worker holds each token back for 3 s.", _WORKER),
    Bug(
        "false-abort",
        _DRAIN,
        "never_logged",
        "A draining worker says that it aborted a request, and finishes it.",
        _WORKER,
    ),
    Bug("orphan-engine", _FAILURE, "no_leaks", "An engine child outlives its handler.", "core.py"),
    Bug("busy-slot", _FAILURE, "no_leaks", "A slot stays busy after a migrated or cancelled request ended.", "core.py"),
)

#: By name.
BUGS: dict[str, Bug] = {bug.name: bug for bug in _ALL}
