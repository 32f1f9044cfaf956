"""The metrics of one engine's failover, by the names and labels that Dynamo's have.

Counters outlive the engine: each change is written beside the lock at once, in place (see
:mod:`~ftharness.failover.slots`), so that an engine that was killed at any instant, and is started again under the same id,
goes on counting where it was. What it was killed in is counted then, too: as a transition to ``dead``.
"""

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftharness.failover.slots import Slots
from ftharness.failover.states import STATES

_log = logging.getLogger("ftharness.failover.metrics")
_PREFIX = "dynamo_component_engine_failover_"
_LIVING = tuple(state for state in STATES if state != "dead")


class FailoverMetrics:
    """What an engine counts of its failovers.

    Args:
        engine_id: Its own: another engine beside the same lock has another one.
        labels: Of every sample.
        persist_dir: Where its counters are kept; the lock's folder.

    Attributes:
        engine_id: The same.
        switching: Whether this process has begun to take over from another.
    """

    def __init__(self, engine_id: str, labels: Mapping[str, str], persist_dir: Path) -> None:
        self.engine_id = engine_id
        self._labels = {"engine_id": engine_id, **labels}
        self._kept = Slots(persist_dir / f"failover_metrics_engine-{engine_id}")
        self._busy = threading.Lock()  # a page of metrics may be asked for by another thread
        self.switching = False
        self._state = ""
        self._entered = 0.0  # Unix time
        self._lasted: dict[str, float] = {}
        self._transitions: Counter[tuple[str, str]] = Counter()
        self._attempts = self._successes = 0
        self._restore()

    @property
    def state(self) -> str:
        """The one that it is in; "" before the first."""
        return self._state

    def set_state(self, state: str) -> None:
        """It enters a state; one in which it is already, or that is none, changes nothing."""
        if state not in STATES:
            _log.warning("[Shadow] ignoring unknown failover state %r; there are %s", state, ", ".join(STATES))
            return
        with self._busy:
            if state == self._state:
                return
            now = time.time()
            if self._state:
                self._lasted[self._state] = max(0.0, now - self._entered)
                self._transitions[self._state, state] += 1
            self._state, self._entered = state, now
            self._keep()
        _log.info("[Shadow] failover_state engine=%s -> %s", self.engine_id, state)

    def record_switch_attempt(self) -> None:
        """It has taken the lock from another: it is to take over."""
        with self._busy:
            self.switching = True
            self._attempts += 1
            self._keep()

    def record_switch_success(self) -> None:
        """And it has: it serves."""
        with self._busy:
            self._successes += 1
            self._keep()

    def text(self) -> str:
        """All of it as Prometheus text."""
        with self._busy:
            return "".join(self._families())

    def _families(self) -> list[str]:
        name = f"{_PREFIX}{{}}".format
        return [
            _family(
                name("state"),
                "gauge",
                [(self._labels | {"state": state}, int(state == self._state)) for state in _LIVING],
            ),
            _family(name("state_entered_timestamp_seconds"), "gauge", [(self._labels, round(self._entered, 6))]),
            _family(
                name("last_state_duration_seconds"),
                "gauge",
                [(self._labels | {"state": state}, round(lasted, 6)) for state, lasted in self._lasted.items()],
            ),
            _family(
                name("transitions_total"),
                "counter",
                [
                    (self._labels | {"from_state": before, "to_state": after}, count)
                    for (before, after), count in self._transitions.items()
                ],
            ),
            _family(name("switch_attempts_total"), "counter", [(self._labels, self._attempts)]),
            _family(name("switch_success_total"), "counter", [(self._labels, self._successes)]),
        ]

    def _restore(self) -> None:
        try:
            kept = self._kept.read()
        except OSError as error:
            _log.warning("[Shadow] cannot read the failover counters of engine %s: %s", self.engine_id, error)
            return
        if kept is None:
            return
        self._attempts, self._successes = kept["attempts"], kept["successes"]
        for before, after, count in kept["transitions"]:
            self._transitions[before, after] = count
        if kept["state"] not in ("", "dead"):  # it was killed: nobody was left to say so
            self._transitions[kept["state"], "dead"] += 1
        _log.info(
            "[Shadow] restored failover counters engine=%s attempts=%d success=%d",
            self.engine_id,
            self._attempts,
            self._successes,
        )

    def _keep(self) -> None:
        transitions = [[before, after, count] for (before, after), count in self._transitions.items()]
        try:
            self._kept.write(
                {
                    "state": self._state,
                    "attempts": self._attempts,
                    "successes": self._successes,
                    "transitions": transitions,
                }
            )
        except OSError as error:  # it serves all the same
            _log.warning("[Shadow] cannot keep the failover counters of engine %s: %s", self.engine_id, error)


def create_failover_metrics(
    endpoint: Any, engine_id: str, model_name: str, component_name: str, persist_dir: str
) -> FailoverMetrics:
    """The metrics of an engine, as Dynamo's workers ask for them.

    Args:
        endpoint: Dynamo's, on whose page of metrics they are to stand; None: on none.
        engine_id: Of the engine.
        model_name: What it serves.
        component_name: Dynamo's component.
        persist_dir: Where its counters are kept; the lock's folder.
    """
    metrics = FailoverMetrics(
        str(engine_id), {"model": model_name or "", "dynamo_component": component_name or ""}, Path(persist_dir)
    )
    if endpoint is not None:
        endpoint.metrics.register_prometheus_expfmt_callback(metrics.text)
    return metrics


def _family(name: str, kind: str, samples: list[tuple[Mapping[str, str], float]]) -> str:
    """Without samples there is none: of a page that has one, a scraper would ask for them."""
    lines = [f"# TYPE {name} {kind}"] if samples else []
    for labels, value in samples:
        label = ",".join(f"{key}={json.dumps(said)}" for key, said in labels.items())
        lines.append(f"{name}{{{label}}} {value}")
    return "".join(f"{line}\n" for line in lines)
