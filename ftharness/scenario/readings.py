"""What the metrics said, as oracles ask for it: of each process the values of one metric, reading after reading."""

from typing import NamedTuple

from ftharness.history import Metric
from ftharness.scenario.case import Case


class Reading(NamedTuple):
    """The value of a metric, all labels together, when a process was asked for it at ``t`` ns; ``n`` is the event's number."""

    t: int
    value: float
    n: int


class Readings(NamedTuple):
    """Those of one process: the last before the fault phase (0 where there was none), and those of the phase, in order."""

    before: float
    since: list[Reading]


def readings(case: Case, event: str) -> dict[str, Readings] | None:
    """The readings of the metric that the contract calls ``event``, by process; None where no contract knows it."""
    name, phase_t = case.params.get("metrics", {}).get(event), case.phase_t("fault") or 0
    if name is None:
        return None
    found: dict[str, dict[int, Reading]] = {}
    cut = case.phase_t("cut")
    for sample in case.select(Metric, name=name):  # the samples of one reading, a label set each, have the same time
        if cut is not None and sample.t >= cut:  # what the checks of the reference made is nobody's of the phase
            continue
        times = found.setdefault(sample.source, {})
        sum_so_far = times[sample.t].value if sample.t in times else 0.0
        times[sample.t] = Reading(sample.t, sum_so_far + sample.value, sample.n)
    return {
        source: Readings(
            next((one.value for one in reversed(times.values()) if one.t < phase_t), 0.0),
            [one for one in times.values() if one.t >= phase_t],
        )
        for source, times in found.items()
    }
