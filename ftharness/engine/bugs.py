"""Planted bugs: one flag makes the stack misbehave in one way, so that an oracle can be seen to fail.

Each lives at the place in the code where such a bug would be, behind a test of its name, and shows only where a fault
strikes: the control run of the same scenario passes. Of a library that is put under fault as it is, such as the pool manager, the
bugs are apart from it: a worse function takes the place of one of its own.
"""

from typing import Any, NamedTuple


class Bug(NamedTuple):
    """A planted bug.

    Attributes:
        name: What ``--bug`` takes.
        scenario: The scenario that reveals it.
        oracle: The oracle that is there for it.
        sentence: What it does.
        where: The module that has it.
        also: Other oracles that it fails, since what it does has more than one consequence.
        params: What is set of the scenario, as by ``--set``, for it to take a few seconds here, or to show on a busy machine.
    """

    name: str
    scenario: str
    oracle: str
    sentence: str
    where: str
    also: tuple[str, ...] = ()
    params: dict[str, Any] = {}  # noqa: RUF012  nobody writes to it


_FAILURE = "migration/worker_failure"
_DISABLED = "migration/disabled_worker_failure"
_PREFILL = "migration/prefill_failure"
_DRAIN = "migration/drain"
_CANCELLED = "cancellation/aggregated"
_TAKEOVER = "failover/shadow_takeover"
_RACE = "failover/cold_start_race"
_ENGINE = "gateway/engine_killed"
_REJOIN = "gateway/rejoin"
_NOBODY = "gateway/all_workers_killed"
_KILLED = "checkpoint/kill_and_resume"
_CORRUPTED = "checkpoint/corruption"
_FULL = "checkpoint/full_disk"
_STORM = "coordinator/preemption_storm"
_POISON = "coordinator/poison_batch"
_CRASHES = "pool/crash_loop"
_FLAP = "pool/probe_flap"
_SILENT = "pool/silent_holders"
_ADOPTED = "pool/manager_killed_adopted"
_FAST: dict[str, Any] = {"speed": 1000}
_AT_ONCE: dict[str, Any] = {**_FAST, "at_s": 0}
_MIGRATION = "frontend_migration.py"
_PLANE = "frontend_plane.py"
_HTTP = "frontend_http.py"
_WORKER = "worker.py"
_CORE = "core.py"
_PARTS = "parts.py"
_SHADOW = "shadow_bugs.py"
_SHARD = "job_shard.py"
_JOB = "job_inference.py"
_JOB_BUGS = "job_bugs.py"
#: Of the pool manager, which knows nothing of them: :mod:`ftharness.pool.planted`.
PLANTED = "planted.py"

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
    Bug("orphan-engine", _FAILURE, "no_leaks", "An engine child outlives its handler.", "engine_process.py"),
    Bug("busy-slot", _FAILURE, "no_leaks", "A slot stays busy after a migrated or cancelled request ended.", _CORE),
    Bug(
        "ignored-abort",
        _CANCELLED,
        "cancelled_within",
        "The engine does not hear aborts: a request that was given up is finished.",
        _CORE,
        ("aborted_in", "cancellations_counted"),
    ),
    Bug(
        "moved-anyway",
        "cancellation/queued",
        "not_migrated",
        "A request whose client is gone is moved to the next worker, and then cancelled on the one before.",
        _MIGRATION,
        ("cancelled_within",),
    ),
    Bug(
        "wrong-abort",
        _CANCELLED,
        "aborted_in",
        "A worker that gives a request up says that the other phase's worker did, and the other way round.",
        _PARTS,
    ),
    Bug(
        "endless-decode",
        "cancellation/aggregated_chat_stream",
        "no_tokens_after_abort",
        "The engine frees what an aborted request held, and goes on making its tokens.",
        _CORE,
    ),
    Bug(
        "leaked-slot",
        _CANCELLED,
        "slots_freed",
        "The engine keeps the slot of a request that was aborted.",
        _CORE,
        ("no_leaks",),
    ),
    Bug("leaked-kv", _CANCELLED, "kv_freed", "The engine keeps the KV of a request that was aborted.", _CORE),
    Bug(
        "stale-abort",
        _CANCELLED,
        "still_serves",
        "An abort stays behind, and hits the next request that comes.",
        _CORE,
        ("ends_as_asked", "cancellations_counted"),
    ),
    Bug(
        "neighbour-abort",
        "cancellation/queued",
        "ends_as_asked",
        "An abort also hits the oldest of the requests that run beside it.",
        _CORE,
        ("cancellations_counted",),
    ),
    Bug("counted-twice", _CANCELLED, "cancellations_counted", "A worker counts each cancellation twice.", _PARTS),
    Bug(
        "untold-remote",
        "cancellation/decode_cancel",
        "kv_freed",
        "A worker does not tell the other phase's worker that a request was given up.",
        _PARTS,
        ("cancelled_within", "aborted_in", "cancellations_counted"),
    ),
    Bug(
        "handed-on-anyway",
        "cancellation/prefill_cancel",
        "never_reached",
        "A prefill worker whose request is cancelled hands it on first, for the decode worker to give it up, too.",
        "part_prefill.py",
        ("aborted_in", "cancellations_counted"),
    ),
    Bug("released-lock", _RACE, "one_active", "An engine that has taken over lets the lock go, and serves.", _SHADOW),
    Bug(
        "collected-lock",
        _RACE,
        "one_active",
        "The lock of an engine that has taken over is let go when its object is collected.",
        _SHADOW,
    ),
    Bug(
        "presumed-lock",
        _RACE,
        "one_active",
        "An engine that waits takes another one's takeover for its own, and wakes without the lock.",
        _SHADOW,
    ),
    Bug(
        "unlinked-lock",
        "failover/rolling_restart",
        "one_active",
        "The lock file is unlinked on release: who waits for the old one and who makes a new one both have the lock.",
        _SHADOW,
    ),
    Bug(
        "inherited-lock",
        _TAKEOVER,
        "took_over_within",
        "A child that outlives its holder has inherited the lock.",
        _SHADOW,
        ("serves_again", "no_leaks"),
    ),
    Bug(
        "trusted-text",
        _TAKEOVER,
        "took_over_within",
        "Whoever is named in the lock file is taken for its holder, dead or not.",
        _SHADOW,
        ("serves_again", "logged"),
    ),
    Bug(
        "early-registration",
        _TAKEOVER,
        "legal_states",
        "An engine that takes over is announced before it is awake.",
        "shadow.py",
        params={"wake_s": 0.3},  # longer than being announced takes on a busy machine
    ),
    Bug(
        "other-weights",
        _TAKEOVER,
        "serves_again",
        "An engine that has taken over answers as another model would.",
        _SHADOW,
        ("ends_cleanly",),
    ),
    Bug(
        "ended-as-complete",
        _TAKEOVER,
        "ends_cleanly",
        "A request that has no worker to go to is ended as if it were complete.",
        _MIGRATION,
    ),
    Bug(
        "blind-fencer",
        "failover/frozen",
        "fenced",
        "A holder that misses its heartbeat loses its lock, and is not killed.",
        _SHADOW,
        ("one_active",),
    ),
    Bug(
        "stolen-lock",
        "failover/frozen_unfenced",
        "nobody_takes_over",
        "An engine that waits breaks the lock of a holder that is stopped.",
        _SHADOW,
        ("one_active",),
    ),
    Bug(
        "late-obituary",
        _ENGINE,
        "silent_at_most",
        "A worker whose engine has died stays for another 3 s, and tells nobody.",
        _WORKER,
        params=_FAST,
    ),
    Bug(
        "kept-worker",
        _REJOIN,
        "stops_failing_after",
        "A worker that is lost keeps its turn: what is sent there is never answered.",
        _PLANE,
        ("every_request_ends",),
        _AT_ONCE,
    ),
    Bug(
        "barred-name",
        _REJOIN,
        "rejoins_within",
        "A worker that was lost, and comes back under its name, is welcomed and gets nothing.",
        _PLANE,
        params=_AT_ONCE,
    ),
    Bug(
        "one-move-more",
        "migration/poison_request",
        "takes_down_at_most",
        "A request moves once more than its limit says.",
        _MIGRATION,
        params=_FAST,
    ),
    Bug(
        "always-healthy",
        _NOBODY,
        "health_agrees",
        "The frontend says that it is healthy though no worker is left.",
        _HTTP,
        ("health_is",),
        _FAST,
    ),
    Bug(
        "health-not-found",
        _NOBODY,
        "health_is",
        "Without a worker the frontend answers 404 at /health, as if it had no such page.",
        _HTTP,
        params=_FAST,
    ),
    Bug("crash-on-resume", _KILLED, "job_completes", "A job that finds checkpoints fails.", _SHARD),
    Bug(
        "forget-checkpoints",
        _KILLED,
        "resumes_from_checkpoints",
        "A job that is started again begins anew.",
        _SHARD,
    ),
    Bug(
        "committed-before-written",
        _KILLED,
        "resumes_from_checkpoints",
        "A checkpoint is said to be committed when its last batch begins.",
        _JOB_BUGS,
    ),
    Bug(
        "skip-a-batch-on-resume",
        _KILLED,
        "results_exact",
        "A job that goes on from checkpoints leaves out the first batch that is not among them.",
        _SHARD,
    ),
    Bug("recover-twice", _KILLED, "results_exact", "What was recovered is given twice.", _SHARD),
    Bug(
        "trust-corrupted",
        _CORRUPTED,
        "corruption_found",
        "A damaged checkpoint is taken for a good one: what cannot be read of it counts as zeros.",
        _JOB_BUGS,
        ("results_exact",),
    ),
    Bug(
        "ignore-full-disk",
        _FULL,
        "full_disk_told",
        "A checkpoint is said to be committed when it is to be written, whether it can be or not.",
        _JOB_BUGS,
        ("resumes_from_checkpoints",),
    ),
    Bug(
        "spot-retried-at-once",
        _STORM,
        "retries_follow_policy",
        "A preempted rank is tried again at once, whatever was configured.",
        _JOB,
    ),
    Bug(
        "preempted-as-done",
        _STORM,
        "retries_follow_policy",
        "A rank that is preempted ends with 0, as if it had done its work.",
        _JOB,
        ("results_exact",),
    ),
    Bug(
        "poison-for-ever",
        _POISON,
        "poison_given_up",
        "A batch that kills whoever touches it is tried for ever.",
        _JOB,
        ("job_completes", "retries_follow_policy"),
    ),
    Bug(
        "poison-drops-shard",
        _POISON,
        "poison_given_up",
        "All that is left of a shard is given up with one batch of it.",
        _JOB,
        ("results_exact",),
    ),
    Bug(
        "kept-leases", _CRASHES, "leases_conserved", "The leases on an engine that has died stay as they are.", PLANTED
    ),
    Bug(
        "revoked-as-released",
        "pool/drain_under_load",
        "leases_conserved",
        "A holder who gives back a lease that was taken from it is told that all is well.",
        PLANTED,
    ),
    Bug(
        "forgotten-leases",
        _ADOPTED,
        "leases_conserved",
        "A manager adopts engines, and knows nothing of the leases on them.",
        PLANTED,
    ),
    Bug(
        "blind-probe",
        _FLAP,
        "ready_only_when_healthy",
        "An engine whose probe fails stays ready, and is leased.",
        PLANTED,
    ),
    Bug(
        "once-unready",
        _FLAP,
        "ready_only_when_healthy",
        "An engine whose probe has failed is never ready again, whatever it answers.",
        PLANTED,
    ),
    Bug("costly-probe", _FLAP, "leases_conserved", "An engine whose probe fails loses its leases.", PLANTED),
    Bug(
        "ready-at-start",
        _ADOPTED,
        "ready_only_when_healthy",
        "An engine that was lost is ready as soon as it is started again, whether it answers or not.",
        PLANTED,
    ),
    Bug("flat-backoff", _CRASHES, "backoff_follows_policy", "Each wait before a restart is the first one.", PLANTED),
    Bug("no-breaker", _CRASHES, "backoff_follows_policy", "The breaker lets every restart through.", PLANTED),
    Bug(
        "second-start",
        _ADOPTED,
        "no_double_start",
        "A manager starts engines beside those that the one before it has left.",
        PLANTED,
        ("no_leaks",),
    ),
    Bug(
        "eternal-leases",
        _SILENT,
        "leases_expire_on_time",
        "A lease that nobody renews is held for ever.",
        PLANTED,
        params={"deadline_s": 12},  # nobody is told to end where no lease expires
    ),
    Bug(
        "unheard-renewal",
        _SILENT,
        "leases_expire_on_time",
        "A renewal is answered, and the lease is over when it would have been without.",
        PLANTED,
    ),
    Bug(
        "no-rollback",
        "pool/reload_rollback",
        "operations_come_to",
        "When the new model's engine fails, the old one's is not started again.",
        PLANTED,
    ),
    Bug(
        "half-reload",
        "pool/reload_rollback",
        "operations_come_to",
        "A reload gives the new model to the first engine alone.",
        PLANTED,
    ),
    Bug(
        "shut-after-abort",
        "pool/drain_under_load",
        "operations_come_to",
        "A pool whose drain was given up goes on refusing leases.",
        PLANTED,
    ),
)

#: By name.
BUGS: dict[str, Bug] = {bug.name: bug for bug in _ALL}
