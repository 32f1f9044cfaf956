"""Times and counts as people read them."""

from collections.abc import Mapping
from typing import Any

from ftharness.report.clean import one_line

NS_PER_MS = 1_000_000
MS_PER_S = 1_000
_MINUTE_S = 60


def milliseconds(value: float | None) -> str:
    """A length of time given in ms, to three digits: ``0.42 ms``, ``14.6 ms``, ``2.00 s``; a dash for None."""
    if value is None:
        return "–"
    size = abs(value)
    if size >= _MINUTE_S * MS_PER_S:
        return f"{value / MS_PER_S / _MINUTE_S:.1f} min"
    if size >= MS_PER_S:
        return f"{value / MS_PER_S:.2f} s"
    digits = 0 if size >= 100 else 1 if size >= 10 else 2  # noqa: PLR2004 - three digits in all
    return f"{value:.{digits}f} ms"


def moment(ns: int) -> str:
    """A point on the run's clock: ``1.327 s``."""
    return f"{ns / NS_PER_MS / MS_PER_S:.3f} s"


def after(ns: int) -> str:
    """A distance from the fault, always signed: ``+14.6 ms``, ``−320 ms``."""
    text = milliseconds(abs(ns) / NS_PER_MS)
    return f"{'−' if ns < 0 else '+'}{text}"


def amount(count: int, noun: str) -> str:
    """``1 token``, ``300 tokens``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def pairs(values: Mapping[str, Any], limit: int = 160) -> str:
    """A fault's evidence, or parameters, on one line: ``signal SIGKILL, pid 4121``."""
    return one_line(", ".join(f"{key.replace('_', ' ')} {_value(value)}" for key, value in values.items()), limit)


def _value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {_value(inner)}" for key, inner in value.items()) + ")"
    if isinstance(value, list | tuple):
        return " ".join(_value(inner) for inner in value)
    return str(value)
