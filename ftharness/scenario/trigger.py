"""When a fault is injected, as data."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from ftharness.faults import Fault
from ftharness.history import Event

Kind = Literal["at", "on_token", "on_log", "on_exit", "after_fault", "when"]


class Injection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fault and its trigger."""

    trigger: "Trigger"
    fault: Fault


class Trigger(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The moment of a fault. Made by the functions of this module.

    Attributes:
        kind: Which of them.
        delay_s: Seconds that pass between the moment and the fault.
        token: For ``on_token``: the number of the token, from 1.
        request: For ``on_token``: the request's place in the workload.
        event: For ``on_log``: the contract's event.
        source: For ``on_log``: the process; "" is any. For ``on_exit``: the process.
        nth: For ``on_log``: the so-many-th such line of the phase.
        captures: For ``on_log``: what such a line has to say.
        fault: For ``after_fault``: the place of the other fault in the scenario.
        predicate: For ``when``: ``module:function`` of a function that is given the events so far, and says yes or no.
    """

    kind: Kind
    delay_s: float = 0.0
    token: int = 0
    request: int = 0
    event: str = ""
    source: str = ""
    nth: int = 1
    captures: dict[str, str] = {}
    fault: int = 0
    predicate: str = ""

    def __post_init__(self) -> None:
        """Refuse moments that are none.

        Raises:
            ValueError: Says which, and what it may be.
        """
        if self.kind == "on_token" and self.token < 1:
            raise ValueError(f"token = {self.token}: tokens are counted from 1")
        if self.kind == "on_exit" and not self.source:
            raise ValueError("on_exit: of which process? Such as on_exit('job-1')")
        if self.nth < 1:
            raise ValueError(f"nth = {self.nth}: lines are counted from 1")
        if not self.delay_s >= 0:
            raise ValueError(f"delay_s = {self.delay_s:g}: must not be less than 0")

    def inject(self, fault: Fault) -> Injection:
        """This fault at this moment."""
        return Injection(trigger=self, fault=fault)

    def __str__(self) -> str:
        """As it stands in a report."""
        what = {
            "at": "at the begin",
            "on_token": f"on token {self.token} of request {self.request}",
            "on_log": f"on {self.event}{self._said} of {self.source or 'any process'}"
            + (f", number {self.nth}" if self.nth > 1 else ""),
            "on_exit": f"on the end of {self.source}",
            "after_fault": f"after_fault({self.fault})",  # as in the scenario, which counts from 0
            "when": f"when {self.predicate}",
        }[self.kind]
        return f"{what}, {self.delay_s:g} s later" if self.delay_s else what

    @property
    def _said(self) -> str:
        said = ", ".join(f"{name} {value}" for name, value in self.captures.items())
        return f" ({said})" if said else ""


def find_predicate(name: str) -> Callable[[Sequence[Event]], Any]:
    """The function that a ``when`` names as ``module:function``.

    Raises:
        LookupError: It cannot be imported, or is none; says why.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:
        raise LookupError(f"when {name}: it cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise LookupError(f"when {name}: that is no function but {found!r}")  # noqa: TRY004 - for the reader it is not found
    return found  # type: ignore[no-any-return]


def at(seconds: float) -> Trigger:
    """``seconds`` after the fault phase's first request was sent, or its first job begun."""
    return Trigger(kind="at", delay_s=seconds)


def on_token(number: int, *, request: int = 0, delay_s: float = 0.0) -> Trigger:
    """When the request's token ``number`` has arrived at the client.

    Of an answer that is not streamed the client sees no token: there it means as long after a worker received the
    request as ``number`` tokens take at the topology's speed, and the run says so.
    """
    return Trigger(kind="on_token", token=number, request=request, delay_s=delay_s)


def on_log(
    event: str,
    *,
    source: str = "",
    nth: int = 1,
    captures: Mapping[str, str] = MappingProxyType({}),
    delay_s: float = 0.0,
) -> Trigger:
    """When a log line that the contract calls ``event`` is read, in the fault phase, for the ``nth`` time.

    Of lines that have ``captures`` only those count that say just that: ``captures={"batch": "14"}``.
    """
    return Trigger(kind="on_log", event=event, source=source, nth=nth, captures=dict(captures), delay_s=delay_s)


def on_exit(source: str, *, delay_s: float = 0.0) -> Trigger:
    """When the process of that name has ended, however that was."""
    return Trigger(kind="on_exit", source=source, delay_s=delay_s)


def after_fault(number: int, *, delay_s: float = 0.0) -> Trigger:
    """When the scenario's fault ``number``, counted from 0, has landed."""
    return Trigger(kind="after_fault", fault=number, delay_s=delay_s)


def when(predicate: Callable[[Sequence[Event]], bool] | str, *, delay_s: float = 0.0) -> Trigger:
    """When ``predicate`` holds of the events so far; asked after each event of the fault phase.

    It is stored by name, so that the scenario stays data: a function at the top of a module that can be imported.
    """
    if not isinstance(predicate, str):
        predicate = f"{predicate.__module__}:{predicate.__qualname__}"
        if "<" in predicate:
            raise ValueError(f"{predicate}: only a function at the top of a module can be stored with a scenario")
    return Trigger(kind="when", predicate=predicate, delay_s=delay_s)
