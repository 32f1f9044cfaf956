"""The faults' short names, as they are written in a scenario."""

from typing import Literal, Protocol

from ftharness.faults.fault import Fault, Target


class _Named(Protocol):
    @property
    def name(self) -> str: ...


def _target(target: Target | _Named) -> Target:
    return target if isinstance(target, Target) else Target(role="named", name=target.name)


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
    """SIGCONT, to what an earlier ``freeze`` without a duration stopped."""
    return Fault(kind="thaw", target=_target(target), args={"tree": tree})


def kill_engine(target: Target | _Named) -> Fault:
    """SIGKILL to the worker's engine process only; its handler lives on, and has to notice."""
    return Fault(kind="kill_engine", target=_target(target))
