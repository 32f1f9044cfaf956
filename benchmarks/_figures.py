"""How a figure is told: quantiles, pairs, one JSON line each, and an exit status."""

import argparse
import json
import operator
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

_SIGNS = {"<=": operator.le, ">=": operator.ge}

#: What an installed program runs in: a machine that forbids bytecode to be kept would have the compiler measured.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


class Figures:
    """The figures of one file, told as they are known.

    Args:
        description: The file's own docstring.

    Attributes:
        quick: Whether ``--quick`` was asked for: fewer samples, the same figures.
    """

    def __init__(self, description: str | None) -> None:
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("--quick", action="store_true", help="fewer samples, the same figures")
        self.quick: bool = parser.parse_args().quick
        self._missed = False

    def tell(
        self,
        figure: str,
        value: float,
        unit: str,
        *,
        n: int,
        bound: str = "",
        peer: str = "",
        peer_value: float | None = None,
    ) -> None:
        """Print one figure.

        Args:
            figure: Its name.
            value: Ours, in ``unit``.
            unit: Of ``value`` and ``peer_value``.
            n: Samples behind ``value``.
            bound: ``value``, ``ratio`` (value / peer) or ``difference`` (value - peer), a sign, a number; "" for none.
            peer: What else was measured in the same run.
            peer_value: The peer's value.
        """
        measures = {"value": value}
        if peer_value is not None:
            measures |= {"ratio": value / peer_value, "difference": value - peer_value}
        ok = True
        if bound:
            what, sign, limit = bound.split()
            ok = bool(_SIGNS[sign](measures[what], float(limit)))
        self._missed |= not ok
        ratio = measures.get("ratio")
        line = {"figure": figure, "value": _rounded(value), "unit": unit, "bound": bound or None, "peer": peer or None}
        line |= {"peer_value": _rounded(peer_value), "ratio": _rounded(ratio), "ok": ok, "n": n}
        print(json.dumps(line), flush=True)

    def end(self) -> NoReturn:
        """Exit: 1 when a bound was missed."""
        sys.exit(int(self._missed))


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest of ``values`` that at least ``q`` of them do not exceed: no interpolation makes a tail look better."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def paired(first: Callable[[], float], second: Callable[[], float], repeats: int) -> tuple[list[float], list[float]]:
    """Both measured ``repeats`` times in turn, each going first every other time, so that a noisy minute hits both."""
    firsts: list[float] = []
    seconds: list[float] = []
    for repeat in range(repeats):
        for measured, values in ((first, firsts), (second, seconds))[:: 1 if repeat % 2 else -1]:
            values.append(measured())
    return firsts, seconds


def seconds_of(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def cpu_seconds() -> float:
    """CPU time of this process and of those that it waited for: what one core took, however shared it is."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def cpu_seconds_of(work: Callable[[], object]) -> float:
    """CPU time of one call."""
    before = cpu_seconds()
    work()
    return cpu_seconds() - before


median = statistics.median
