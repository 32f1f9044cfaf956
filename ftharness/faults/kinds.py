"""The faults' short names, as they are written in a scenario."""

from typing import Annotated, Any, Literal, Protocol

import msgspec

from ftharness.faults.fault import Fault, Sent, Target, active, client_of, hit

#: The kinds of this module by what they hit; all of them are.
OF_CLIENTS = ("disconnect", "reset", "cancel_task", "kill_client", "half_close")
OF_PROCESSES = (
    "kill",
    "terminate",
    "interrupt",
    "freeze",
    "thaw",
    "kill_engine",
    "kill_rank",
    "freeze_engine",
    "start_standby",
    "restart",
    "check_health",
    "corrupt_checkpoint",
    "fill_disk",
    "free_disk",
    "ask",
    "count_engines",
    "end_job",
)
#: Those that break nothing: what has to follow a fault, or a look at what is broken. They are aimed at no request.
HARMLESS = ("start_standby", "restart", "check_health", "free_disk", "ask", "count_engines", "end_job")
_FIRST = client_of(0)
#: What is asked by a look at a process's health, and the seconds that an answer may take: a probe of Kubernetes gives 1 by
#: default, and people more.
HEALTH_PATH, HEALTH_S = "/health", 2.0
#: How long a call that an operator makes may take, with what it begins, in seconds.
ASK_S = 10.0
# What cannot be asked, or answered in no time, would be a failure of whoever is looked at.
_Path = Annotated[str, msgspec.Meta(pattern="^/")]
_Seconds = Annotated[float, msgspec.Meta(gt=0)]
_Number = Annotated[int, msgspec.Meta(ge=0)]  # of a rank or a checkpoint, from 0
_HIT_FIRST = hit(0)
RankSignal = Literal["SIGKILL", "SIGTERM", "SIGSEGV"]
Damage = Literal["flip", "truncate", "zero_tail", "remove_marker"]


class _Named(Protocol):
    @property
    def name(self) -> str: ...


def _target(target: Target | _Named) -> Target:
    if isinstance(target, Target):
        if target.role == "client":
            raise TypeError(f"this fault hits a process, not a {target}; a client is hit by {', '.join(OF_CLIENTS)}")
        return target
    name = getattr(target, "name", None)
    if isinstance(name, str):
        return Target(role="named", name=name)
    hint = f"did you mean named({target!r})?" if isinstance(target, str) else "such as serving, or ft.stack.workers[0]"
    raise TypeError(f"a fault hits a target or a process, not {target!r}; {hint}")


def _client(target: Target | Sent) -> Target:
    if isinstance(target, Target):
        if target.role != "client":
            raise TypeError(
                f"this fault hits the client of a request, not {target}; such as client_of({target.request})"
            )
        return target
    if isinstance(target, int):
        raise TypeError(f"this fault hits the client of a request, not {target!r}; did you mean client_of({target})?")
    try:
        return client_of(target)
    except TypeError:
        raise TypeError(
            f"this fault hits the client of a request, not {target!r}; such as a stream, or client_of(0)"
        ) from None


def kill(target: Target | _Named, *, tree: bool = False) -> Fault:
    """SIGKILL, to the process or, with ``tree``, to all that it started as well."""
    return Fault(kind="kill", target=_target(target), args={"tree": tree})


def terminate(
    target: Target | _Named, *, grace_s: float = 10.0, then: Literal["kill", "nothing"] = "kill", tree: bool = False
) -> Fault:
    """SIGTERM; and when it still runs after ``grace_s`` seconds, what ``then`` says, as an event of its own."""
    return Fault(kind="terminate", target=_target(target), args={"grace_s": grace_s, "then": then, "tree": tree})


def interrupt(target: Target | _Named, *, tree: bool = False) -> Fault:
    """SIGINT, as a Ctrl-C."""
    return Fault(kind="interrupt", target=_target(target), args={"tree": tree})


def freeze(target: Target | _Named, *, duration_s: float | None = None, tree: bool = True) -> Fault:
    """SIGSTOP, and SIGCONT after ``duration_s`` seconds, or at the end of the run.

    Its children are frozen with it unless ``tree`` is False: a stopped handler alone leaves an engine that works.
    """
    return Fault(kind="freeze", target=_target(target), args={"duration_s": duration_s, "tree": tree})


def thaw(target: Target | _Named, *, tree: bool = True) -> Fault:
    """SIGCONT, to what a ``freeze`` or ``freeze_engine`` without a duration stopped; ``tree``: also below the process."""
    return Fault(kind="thaw", target=_target(target), args={"tree": tree})


def kill_engine(target: Target | _Named, *, engine: str = "") -> Fault:
    """SIGKILL to the worker's engine process only; its handler lives on, and has to notice.

    Of a manager of pools, which has several, to the one in the slot ``engine``, such as ``main-1``.
    """
    return Fault(kind="kill_engine", target=_target(target), args={"engine": engine} if engine else {})


def kill_rank(target: Target | _Named, rank: _Number = 0, *, signal: RankSignal = "SIGKILL") -> Fault:
    """A signal that ends one of the processes among which the worker's model, or a job, is divided, by its rank.

    SIGTERM is what a preemption sends, SIGSEGV what an input does that crashes whoever touches it.
    """
    args = {"rank": rank} if signal == "SIGKILL" else {"rank": rank, "signal": signal}
    return Fault(kind="kill_rank", target=_target(target), args=args)


def freeze_engine(target: Target | _Named, *, duration_s: float | None = None, engine: str = "") -> Fault:
    """SIGSTOP to the worker's engine process and what is below it; its handler lives on. SIGCONT as for ``freeze``.

    Of a manager of pools to the one in the slot ``engine``, as for ``kill_engine``.
    """
    args = {"duration_s": duration_s, "engine": engine} if engine else {"duration_s": duration_s}
    return Fault(kind="freeze_engine", target=_target(target), args=args)


def restart(target: Target | _Named = _HIT_FIRST) -> Fault:
    """No harm, but what has to follow one: a process that has ended is started again, under a new name (``worker-1.2``)."""
    return Fault(kind="restart", target=_target(target))


def check_health(
    target: Target | _Named = _HIT_FIRST, *, path: _Path = HEALTH_PATH, within_s: _Seconds = HEALTH_S
) -> Fault:
    """No harm, but a look: what the process answers to ``GET path``, and whether within ``within_s`` seconds."""
    return Fault(kind="check_health", target=_target(target), args={"path": path, "within_s": within_s})


def corrupt_checkpoint(
    target: Target | _Named, *, rank: _Number = 0, checkpoint: _Number = 0, how: Damage = "flip"
) -> Fault:
    """A committed checkpoint of a job is damaged: a byte is flipped, a half is cut off or zeroed, or its marker is removed."""
    args = {"rank": rank, "checkpoint": checkpoint, "how": how}
    return Fault(kind="corrupt_checkpoint", target=_target(target), args=args)


def fill_disk(target: Target | _Named) -> Fault:
    """Every byte of the disk that the job has for itself is taken, until the end of the run or a ``free_disk``."""
    return Fault(kind="fill_disk", target=_target(target))


def free_disk(target: Target | _Named = _HIT_FIRST) -> Fault:
    """No harm, but what has to follow one: what ``fill_disk`` took is given back."""
    return Fault(kind="free_disk", target=_target(target))


def ask(
    target: Target | _Named,
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"],
    path: _Path,
    body: dict[str, Any] | None = None,
    *,
    status: int = 200,
    within_s: _Seconds = ASK_S,
) -> Fault:
    """No harm, but what an operator does: a call of the process's HTTP API, which has to be answered with ``status``.

    Of an answer 202 the operation that it began is followed to its end, for at most ``within_s`` seconds.
    """
    args = {"method": method, "path": path, "body": body, "status": status, "within_s": within_s}
    return Fault(kind="ask", target=_target(target), args=args)


def count_engines(target: Target | _Named) -> Fault:
    """No harm, but a look: which processes are in each slot of a manager of pools, by the kernel's word."""
    return Fault(kind="count_engines", target=_target(target))


def end_job(target: Target | _Named) -> Fault:
    """No harm, but the end of a job that goes on until it is told: SIGTERM, at which it does what it has begun, and ends."""
    return Fault(kind="end_job", target=_target(target))


def start_standby(beside: Target | _Named = active) -> Fault:
    """No harm, but what has to follow one: a further shadow engine joins the group of ``beside``, under a new name."""
    return Fault(kind="start_standby", target=_target(beside))


def disconnect(target: Target | Sent = _FIRST) -> Fault:
    """The client closes its connection: a user who goes away."""
    return Fault(kind="disconnect", target=_client(target))


def reset(target: Target | Sent = _FIRST) -> Fault:
    """The client resets its connection (RST): nothing is left of it at once."""
    return Fault(kind="reset", target=_client(target))


def cancel_task(target: Target | Sent = _FIRST) -> Fault:
    """The asyncio task that awaits the answer is cancelled, and closes its connection, as client libraries do."""
    return Fault(kind="cancel_task", target=_client(target))


def kill_client(target: Target | Sent = _FIRST) -> Fault:
    """SIGKILL to the process that sent the request, which has to be one of its own: ``completion(own_process=True)``."""
    return Fault(kind="kill_client", target=_client(target))


def half_close(target: Target | Sent = _FIRST) -> Fault:
    """The client says that it will ask nothing more (SHUT_WR), and goes on reading. Many servers take it for a disconnect."""
    return Fault(kind="half_close", target=_client(target))
