"""A scenario: topology, workload, faults and expectations, as one value."""

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, get_type_hints

import msgspec

from ftharness.client import Request
from ftharness.client.request import check_order
from ftharness.faults import kinds
from ftharness.scenario.expect import Expect, find_oracle
from ftharness.scenario.refusal import explained
from ftharness.scenario.trigger import Injection
from ftharness.stack import Job, Topology
from ftharness.suggest import nearest


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to do to a stack, and what to expect of it.

    Attributes:
        name: ``family/name``.
        topology: What is launched.
        workload: The requests, sent once without and once with the faults.
        jobs: What else is done in each of these phases: work of processes of their own, to its end.
        faults: What is broken, and when.
        expect: What must hold; the invariants (every request ends, nothing leaks, exits are explained) always must.
        description: One sentence.
        stacks: The stacks on which it means something, where these are not all.
        seed: Of tokens, ids and whatever else is random.
        idle_s: Seconds without a byte after which a request counts as a hang.
        deadline_s: Seconds that each phase may take at most.
        ready_s: Seconds that the stack gets to become ready.
        stop_grace_s: Seconds that processes get to end at teardown.
    """

    name: str
    topology: Topology = Topology()
    workload: list[Request]
    jobs: list[Job] = []
    faults: list[Injection] = []
    expect: list[Expect] = []
    description: str = ""
    stacks: list[str] = []
    seed: int = 0
    idle_s: float = 30.0
    deadline_s: float = 120.0
    ready_s: float = 60.0
    stop_grace_s: float = 5.0

    def __post_init__(self) -> None:
        """Refuse times in which nothing can be run, and an order in which nothing can be sent.

        Raises:
            ValueError: Says which, and what it may be.
        """
        for name in ("idle_s", "deadline_s", "ready_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name):g}: must be more than 0")
        if not self.stop_grace_s >= 0:
            raise ValueError(f"stop_grace_s = {self.stop_grace_s:g}: must not be less than 0")
        check_order(self.workload)
        if not self.topology.serves and self.workload:
            raise ValueError("frontend = false, workers = 0: nobody is there to serve the workload's requests")
        if not self.topology.serves and not self.jobs:
            raise ValueError("frontend = false, workers = 0: nothing runs without a job")

    def expected_of(self, behaviour: Mapping[str, Any]) -> list[Expect]:
        """What is expected of a version with this documented behaviour."""
        return [expect for expect in self.expect if expect.applies(behaviour)]


def with_params(scenario: Scenario, params: dict[str, str]) -> Scenario:
    """The scenario with some of its numbers replaced: what ``--set KEY=VALUE`` does.

    A key is a field of the topology, of every pool as ``pool.field``, of every request, of every trigger (``token``,
    ``delay_s``), an argument of a fault or of a job, an argument of an expectation as ``oracle.argument``, or one of the
    scenario's own.

    Raises:
        ValueError: No such key (names the nearest), or the value does not fit; says which.
    """
    data = msgspec.to_builtins(scenario)
    for key, value in params.items():
        places = _places(data).get(key)
        if not places:
            raise ValueError(f"{scenario.name} has nothing named {key!r} to set; {nearest(key, _places(data))}")
        for place in places:
            place[key.rpartition(".")[2]] = _value(value)
    try:
        changed = msgspec.convert(data, Scenario)
        check_arguments(changed)
    except (msgspec.ValidationError, ValueError) as error:
        said = f" with {', '.join(f'{key}={value}' for key, value in params.items())}" if params else ""
        # From None: what the reader needs is all in these words, and pytest would show two errors.
        raise ValueError(f"{scenario.name}{said}: {explained(error, Scenario)}") from None
    return changed


def check_arguments(scenario: Scenario, *, sent: int | None = None) -> None:
    """Whether arguments are what the fault's short name and the oracle take; what has neither is looked up elsewhere.

    Args:
        scenario: The arguments.
        sent: How many requests a test has sent, where that drives it.

    Raises:
        ValueError: One is not; says which.
    """
    count, of = (len(scenario.workload), "the workload has") if sent is None else (sent, "the test has sent")
    for expect in scenario.expect:
        if expect.place is not None and not 0 <= expect.place < count:
            raise ValueError(f"{expect}: request = {expect.place}: {of} {count}, counted from 0")
    takers = [(getattr(kinds, one.fault.kind, None), one.fault.args) for one in scenario.faults]
    for expect in scenario.expect:
        with suppress(LookupError):
            takers.append((find_oracle(expect.oracle), expect.args))
    for taker, arguments in takers:
        for name, value in arguments.items():
            if isinstance(value, float) and not math.isfinite(value):  # such a bound is none
                raise ValueError(f"{name} = {value:g}: must be finite")
            hint: Any = Any
            try:
                hint = get_type_hints(taker, include_extras=True).get(name, Any) if taker else Any
                msgspec.convert(value, hint)
            except msgspec.ValidationError as error:
                raise ValueError(f"{name}: {explained(error, hint)}") from None
            except (NameError, TypeError):
                continue  # somebody else's, with hints that say nothing of data


def _places(data: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Where in the scenario's data each key that can be set stands."""
    places: dict[str, list[dict[str, Any]]] = {}

    def offer(holder: dict[str, Any], *names: str, prefix: str = "") -> None:
        for name in names:
            places.setdefault(prefix + name, []).append(holder)

    offer(data, "idle_s", "deadline_s", "ready_s", "stop_grace_s", "seed")
    offer(data["topology"], *data["topology"])
    for pool in (data["topology"]["pool"] or {"manager": {"pool": []}})["manager"]["pool"]:
        offer(pool, *pool, prefix="pool.")
    for request in data["workload"]:
        offer(request, *request)
    for job in data["jobs"]:
        offer(job, "disk_mb")
        offer(job["args"], *job["args"])
    for injection in data["faults"]:
        if injection["trigger"]["kind"] == "on_token":
            offer(injection["trigger"], "token")
        offer(injection["trigger"], "delay_s")
        offer(injection["fault"]["args"], *injection["fault"]["args"])
    for expect in data["expect"]:
        offer(expect["args"], *expect["args"], prefix=f"{expect['oracle']}.")
    return places


def _value(text: str) -> Any:
    """JSON where it is JSON, else the text itself: ``stream=false``, ``max_tokens=8192``, ``endpoint=chat``."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
