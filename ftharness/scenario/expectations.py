"""The oracles' short names, as they are written in a scenario or in a test of one's own.

Each takes the request that it is about as its first argument where it is used in a test; in a scenario it is about all.
"""

from typing import Any, Protocol

from ftharness.scenario.expect import Expect


class _Request(Protocol):
    @property
    def id(self) -> str: ...


def _expect(oracle: str, request: _Request | None, **args: Any) -> Expect:
    return Expect(oracle=oracle, args=args, request=request.id if request else "")


def succeeds(request: _Request | None = None) -> Expect:
    """Every request got a complete answer."""
    return _expect("succeeds", request)


def fails_with(status: int | str, request: _Request | None = None) -> Expect:
    """Every request that the fault was aimed at failed with this HTTP status, or this code of an SSE error event.

    Args:
        status: A number; or ``broken``: the connection ended without an answer that says what went wrong; or the name of a
            documented behaviour, such as ``migration_exhausted``, whose number depends on the version of the system under
            test.
        request: The one request.
    """
    return _expect("fails_with", request, status=status)


def migrated(request: _Request | None = None, *, times: int = 1) -> Expect:
    """The request moved to another worker ``times`` times."""
    return _expect("migrated", request, times=times)


def not_migrated(request: _Request | None = None) -> Expect:
    """No request moved to another worker."""
    return _expect("not_migrated", request)


def tokens_exact(request: _Request | None = None) -> Expect:
    """No token was lost, duplicated or altered."""
    return _expect("tokens_exact", request)


def logged(event: str, *, role: str = "", source: str = "") -> Expect:
    """A line that the contract calls ``event`` was logged, by a process of that role or name."""
    return Expect(oracle="logged", args={"event": event, "role": role, "source": source})


def never_logged(event: str, *, role: str = "", source: str = "") -> Expect:
    """No line that the contract calls ``event`` was logged in the fault phase."""
    return Expect(oracle="never_logged", args={"event": event, "role": role, "source": source})


def every_request_ends(request: _Request | None = None) -> Expect:
    """Every request ended or failed within its deadline."""
    return _expect("every_request_ends", request)


def recovers_within(*, ms: float, request: _Request | None = None) -> Expect:
    """Tokens flowed again at most ``ms`` milliseconds after each fault."""
    return _expect("recovers_within", request, ms=ms)


def ttft_within(*, ms: float, request: _Request | None = None) -> Expect:
    """The first token came at most ``ms`` milliseconds after the request was sent."""
    return _expect("ttft_within", request, ms=ms)


def gap_within(*, ms: float, request: _Request | None = None) -> Expect:
    """No two tokens of a request were further apart than ``ms`` milliseconds."""
    return _expect("gap_within", request, ms=ms)


def usage_correct(request: _Request | None = None) -> Expect:
    """Usage, finish reason, stop strings, choices and log probabilities are those of the answer without the fault."""
    return _expect("usage_correct", request)


def no_leaks() -> Expect:
    """No process, port, shared memory or slot outlived its owner."""
    return Expect(oracle="no_leaks")


def exits_as(how: str | int, *, source: str = "") -> Expect:
    """The process that the fault hit (or ``source``) ended by that signal (``SIGKILL``) or with that exit status."""
    return Expect(oracle="exits_as", args={"how": how, "source": source})


def exits_explained() -> Expect:
    """Every process that ended did so by a fault of ours or by our teardown."""
    return Expect(oracle="exits_explained")


def cancelled_within(*, ms: float, request: _Request | None = None) -> Expect:
    """At most ``ms`` milliseconds after its client had gone, every worker that had the request had given it up."""
    return _expect("cancelled_within", request, ms=ms)


def aborted_in(role: str, request: _Request | None = None, *, remote: str = "") -> Expect:
    """A worker of that role gave the request up, and no other's did; one of the role ``remote`` was told so."""
    return _expect("aborted_in", request, role=role, remote=remote)


def never_reached(role: str, request: _Request | None = None) -> Expect:
    """No worker of that role ever had the request that was cancelled."""
    return _expect("never_reached", request, role=role)


def no_tokens_after_abort(request: _Request | None = None) -> Expect:
    """Nothing came to a client that was gone, and the engines make no tokens once all requests are over."""
    return _expect("no_tokens_after_abort", request)


def slots_freed() -> Expect:
    """Once all requests are over, no engine has more slots busy than before."""
    return Expect(oracle="slots_freed")


def kv_freed() -> Expect:
    """Once all requests are over, no engine has more KV blocks in use than before."""
    return Expect(oracle="kv_freed")


def still_serves(request: _Request | None = None) -> Expect:
    """The worker that gave a request up answered the next that it got: the workload has one (``completion(after=0)``)."""
    return _expect("still_serves", request)


def cancellations_counted(*, frontend: int | None = 1, workers: int | None = 1) -> Expect:
    """The metrics of the frontend and of the workers count so many cancellations; None: whatever they count."""
    return Expect(oracle="cancellations_counted", args={"frontend": frontend, "workers": workers})


def ends_as_asked() -> Expect:
    """Requests whose clients left are cancelled, the others complete; every token is exact."""
    return Expect(oracle="ends_as_asked")


def ends_cleanly(request: _Request | None = None) -> Expect:
    """Every request got its whole answer, or an error that says so."""
    return _expect("ends_cleanly", request)


def one_active() -> Expect:
    """Of engines that share a failover lock no two served at the same time."""
    return Expect(oracle="one_active")


def legal_states() -> Expect:
    """Each engine went from init to standby, waking, active and dead, and was announced only when awake."""
    return Expect(oracle="legal_states")


def took_over_within(*, ms: float) -> Expect:
    """At most ``ms`` milliseconds after each fault on the engine that served came the first token of another of its group."""
    return Expect(oracle="took_over_within", args={"ms": ms})


def serves_again() -> Expect:
    """Once the next engine has served its first token, every request that is sent gets its whole answer."""
    return Expect(oracle="serves_again")


def nobody_takes_over() -> Expect:
    """While the engine that served is frozen, no other gets its turn."""
    return Expect(oracle="nobody_takes_over")


def fenced() -> Expect:
    """A holder of the lock that was frozen and lost it serves nobody any more, thawed or not."""
    return Expect(oracle="fenced")
