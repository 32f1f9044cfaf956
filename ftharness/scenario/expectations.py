"""The oracles' short names, as they are written in a scenario or in a test of one's own.

Each that can be about one request takes it as its first argument, or as ``request=``: in a test the stream, in a scenario its
place in the workload, ``request=1``. Without, it is about all. What an oracle needs besides, such as a role, may stand before
it or after it. About the whole run are those of logs, processes, slots, KV and counts.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, overload

from ftharness.scenario.expect import Expect


class _Request(Protocol):
    @property
    def id(self) -> str: ...


def _expect(oracle: str, request: _Request | int | None, **args: Any) -> Expect:
    if request is None:
        return Expect(oracle=oracle, args=args)
    if isinstance(request, int):
        return Expect(oracle=oracle, args=args, place=request)
    if not isinstance(getattr(request, "id", None), str):
        raise TypeError(f"{oracle}(): {request!r} is no request: it takes a stream, or request=PLACE in the workload")
    return Expect(oracle=oracle, args=args, request=request.id)


def _apart(
    oracle: str, name: str, given: Sequence[Any], named: Any, request: _Request | int | None
) -> tuple[Any, _Request | int | None]:
    """Of what was given in either order, or by name, what the oracle needs and the request; a place is given by name only.

    Raises:
        TypeError: Something is missing, or there twice.
    """
    needs = [one for one in (*given, named) if isinstance(one, str | int)]
    streams = [
        one for one in (*given, request) if one is not None and (one is request or not isinstance(one, str | int))
    ]
    if len(needs) != 1 or len(streams) > 1:
        raise TypeError(
            f"{oracle}() takes one {name}, and at most one request: {oracle}(stream, {name}) or {oracle}({name})"
        )
    return needs[0], streams[0] if streams else None


def succeeds(request: _Request | int | None = None) -> Expect:
    """Every request got a complete answer."""
    return _expect("succeeds", request)


@overload
def fails_with(status: int | str, request: _Request | int | None = None, /) -> Expect: ...
@overload
def fails_with(request: _Request, status: int | str, /) -> Expect: ...
@overload
def fails_with(
    *given: int | str | _Request, status: int | str = ..., request: _Request | int | None = None
) -> Expect: ...
def fails_with(*given: Any, status: int | str | None = None, request: _Request | int | None = None) -> Expect:
    """Every request that the fault was aimed at failed with this HTTP status, or this code of an SSE error event.

    Args:
        given: The status and the request, in either order.
        status: A number; or ``broken``: the connection ended without an answer that says what went wrong; or the name of a
            documented behaviour, such as ``migration_exhausted``, whose number depends on the version of the system under
            test.
        request: The one request.
    """
    status, request = _apart("fails_with", "status", given, status, request)
    return _expect("fails_with", request, status=status)


def migrated(request: _Request | int | None = None, *, times: int = 1) -> Expect:
    """The request moved to another worker ``times`` times."""
    return _expect("migrated", request, times=times)


def not_migrated(request: _Request | int | None = None) -> Expect:
    """No request moved to another worker."""
    return _expect("not_migrated", request)


def tokens_exact(request: _Request | int | None = None) -> Expect:
    """No token was lost, duplicated or altered."""
    return _expect("tokens_exact", request)


def logged(event: str, *, role: str = "", source: str = "") -> Expect:
    """A line that the contract calls ``event`` was logged, by a process of that role or name."""
    return Expect(oracle="logged", args={"event": event, "role": role, "source": source})


def never_logged(event: str, *, role: str = "", source: str = "") -> Expect:
    """No line that the contract calls ``event`` was logged in the fault phase."""
    return Expect(oracle="never_logged", args={"event": event, "role": role, "source": source})


def every_request_ends(request: _Request | int | None = None) -> Expect:
    """Every request ended or failed within its deadline."""
    return _expect("every_request_ends", request)


def recovers_within(request: _Request | int | None = None, *, ms: float) -> Expect:
    """Tokens flowed again at most ``ms`` milliseconds after each fault."""
    return _expect("recovers_within", request, ms=ms)


def ttft_within(request: _Request | int | None = None, *, ms: float) -> Expect:
    """The first token came at most ``ms`` milliseconds after the request was sent."""
    return _expect("ttft_within", request, ms=ms)


def gap_within(request: _Request | int | None = None, *, ms: float) -> Expect:
    """No two tokens of a request were further apart than ``ms`` milliseconds."""
    return _expect("gap_within", request, ms=ms)


def usage_correct(request: _Request | int | None = None) -> Expect:
    """Usage, finish reason, stop strings, choices and log probabilities are those of the answer without the fault."""
    return _expect("usage_correct", request)


def silent_at_most(request: _Request | int | None = None, *, ms: float) -> Expect:
    """No client of a request that a fault was aimed at heard nothing for longer, from the fault to the request's end."""
    return _expect("silent_at_most", request, ms=ms)


def health_is(status: int | Literal["none", "unhealthy"]) -> Expect:
    """Each ``check_health`` was answered with this status; ``none``: by nothing in its time; ``unhealthy``: by all but 200."""
    return Expect(oracle="health_is", args={"status": status})


def health_agrees() -> Expect:
    """After each ``check_health`` the next request to that process met what it said: after 200 an answer, else none."""
    return Expect(oracle="health_agrees")


def stops_failing_after(requests: int) -> Expect:
    """Of what is sent after the first fault at most so many fail, and none behind those."""
    return Expect(oracle="stops_failing_after", args={"requests": requests})


def rejoins_within(*, ms: float) -> Expect:
    """What was started again got a request at most ``ms`` milliseconds after it was ready."""
    return Expect(oracle="rejoins_within", args={"ms": ms})


def takes_down_at_most(workers: int) -> Expect:
    """A request that kills whichever engine serves it, the first of the workload, took at most so many with it."""
    return Expect(oracle="takes_down_at_most", args={"workers": workers})


def no_leaks() -> Expect:
    """No process, port, shared memory or slot outlived its owner."""
    return Expect(oracle="no_leaks")


def exits_as(how: str | int, *, source: str = "") -> Expect:
    """The process that the fault hit (or ``source``) ended by that signal (``SIGKILL``) or with that exit status.

    ``failure``: in any way that tells that something went wrong.
    """
    return Expect(oracle="exits_as", args={"how": how, "source": source})


def exits_explained() -> Expect:
    """Every process that ended did so by a fault of ours or by our teardown."""
    return Expect(oracle="exits_explained")


def cancelled_within(request: _Request | int | None = None, *, ms: float) -> Expect:
    """At most ``ms`` milliseconds after its client had gone, every worker that had the request had given it up."""
    return _expect("cancelled_within", request, ms=ms)


@overload
def aborted_in(role: str, request: _Request | None = None, /, *, remote: str = "") -> Expect: ...
@overload
def aborted_in(request: _Request, role: str, /, *, remote: str = "") -> Expect: ...
@overload
def aborted_in(
    *given: str | _Request, role: str = ..., request: _Request | int | None = None, remote: str = ""
) -> Expect: ...
def aborted_in(*given: Any, role: str | None = None, request: _Request | int | None = None, remote: str = "") -> Expect:
    """A worker of that role gave the request up, and no other's did; one of the role ``remote`` was told so."""
    role, request = _apart("aborted_in", "role", given, role, request)
    return _expect("aborted_in", request, role=role, remote=remote)


@overload
def never_reached(role: str, request: _Request | None = None, /) -> Expect: ...
@overload
def never_reached(request: _Request, role: str, /) -> Expect: ...
@overload
def never_reached(*given: str | _Request, role: str = ..., request: _Request | int | None = None) -> Expect: ...
def never_reached(*given: Any, role: str | None = None, request: _Request | int | None = None) -> Expect:
    """No worker of that role ever had the request that was cancelled."""
    role, request = _apart("never_reached", "role", given, role, request)
    return _expect("never_reached", request, role=role)


def no_tokens_after_abort(request: _Request | int | None = None) -> Expect:
    """Nothing came to a client that was gone, and the engines make no tokens once all requests are over."""
    return _expect("no_tokens_after_abort", request)


def slots_freed() -> Expect:
    """Once all requests are over, no engine has more slots busy than before."""
    return Expect(oracle="slots_freed")


def kv_freed() -> Expect:
    """Once all requests are over, no engine has more KV blocks in use than before."""
    return Expect(oracle="kv_freed")


def still_serves(request: _Request | int | None = None) -> Expect:
    """Each worker that gave a request up answered the next that it got: there has to be one (``completion(after=0)``)."""
    return _expect("still_serves", request)


def cancellations_counted(*, frontend: int | None = 1, workers: int | None = 1) -> Expect:
    """The metrics of the frontend and of the workers count so many cancellations; None: whatever they count."""
    return Expect(oracle="cancellations_counted", args={"frontend": frontend, "workers": workers})


def ends_as_asked(request: _Request | int | None = None) -> Expect:
    """Requests whose clients left are cancelled, the others complete; every token is exact."""
    return _expect("ends_as_asked", request)


def ends_cleanly(request: _Request | int | None = None) -> Expect:
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


def job_completes(*, status: int = 0) -> Expect:
    """The last life of each job ended by itself with this status, and said so: 0 all done, 3 something given up."""
    return Expect(oracle="job_completes", args={"status": status})


def results_exact() -> Expect:
    """Every item of each job came once and as without the faults, but for batches that were given up by name."""
    return Expect(oracle="results_exact")


def resumes_from_checkpoints() -> Expect:
    """What was said to be committed, and was not damaged since, was recovered by who came next, and not computed again."""
    return Expect(oracle="resumes_from_checkpoints")


def corruption_found() -> Expect:
    """What a fault damaged was said to be damaged by who read it next, was not recovered, and was computed again."""
    return Expect(oracle="corruption_found")


def full_disk_told() -> Expect:
    """While the disk was full checkpoints were said to have failed, and none to be committed; those of before it are there."""
    return Expect(oracle="full_disk_told")


def retries_follow_policy() -> Expect:
    """Each attempt of a rank that ended was followed by what the coordinator's policy says, no earlier than it says."""
    return Expect(oracle="retries_follow_policy")


def poison_given_up(*, strikes: int = 2) -> Expect:
    """A batch at which faults struck so often was tried just so often, then given up by name; all else was done."""
    return Expect(oracle="poison_given_up", args={"strikes": strikes})


def leases_conserved() -> Expect:
    """Every lease of a pool that was granted ended once, as its holder was told; never more than slots, none on a dead engine."""
    return Expect(oracle="leases_conserved")


def leases_expire_on_time() -> Expect:
    """A lease that nobody renews is over when its holder was told that it would be, a second later at most, and never before."""
    return Expect(oracle="leases_expire_on_time")


def ready_only_when_healthy() -> Expect:
    """No engine was leased that was not ready; one that died or was frozen was said to be so in time."""
    return Expect(oracle="ready_only_when_healthy")


def backoff_follows_policy() -> Expect:
    """Each wait before an engine was started again is the policy's, and was kept; while the breaker was open none started."""
    return Expect(oracle="backoff_follows_policy")


def no_double_start() -> Expect:
    """No slot of a pool had two processes at a time, also not across the end of a manager."""
    return Expect(oracle="no_double_start")


def operations_come_to(outcomes: Sequence[str]) -> Expect:
    """The drains and reloads of the fault phase came to this, in order, and what was done is what these words say.

    Of a drain ``drained``, ``stopped`` or ``aborted``; of a reload ``succeeded`` or ``rolled_back``.
    """
    return Expect(oracle="operations_come_to", args={"outcomes": list(outcomes)})
