"""Metrics: Prometheus text into samples.

The format is a line a sample (prometheus.io, "Exposition formats", text version 0.0.4). Read here, because the general
parser takes 50 ms to be imported and several µs a line for types, help and units, of which nothing is used.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)[ \t]*(?:\{(.*)\})?[ \t]*(?<=[ \t}])([^ \t{}]+)(?:[ \t]+-?\d+)?[ \t]*")
_LABEL = re.compile(r'[ \t]*([a-zA-Z_]\w*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*(?:,[ \t]*|$)')
_ESCAPED = re.compile(r"\\(.)")
_MEANT = {"n": "\n", '"': '"', "\\": "\\"}


class Sample(NamedTuple):
    """One sample."""

    name: str
    value: float
    labels: dict[str, str]


def read_metrics(text: str) -> Iterator[Sample]:
    """The samples of a ``/metrics`` page.

    Raises:
        ValueError: It is not Prometheus text; names the line.
    """
    for line in text.split("\n"):
        said = line.strip()
        if said and not said.startswith("#"):
            sample = _SAMPLE.fullmatch(said)
            if sample is None:
                raise ValueError(f"not a sample of a metric: {said[:200]!r}")
            name, labels, value = sample.groups()
            yield Sample(name, float(value), _labels(labels) if labels else {})


def _labels(text: str) -> dict[str, str]:
    found, place = {}, 0
    while place < len(text):
        label = _LABEL.match(text, place)
        if label is None:
            raise ValueError(f"not the labels of a metric: {text[:200]!r}")
        name, value = label.groups()
        found[name] = _ESCAPED.sub(_unescaped, value) if "\\" in value else value
        place = label.end()
    return found


def _unescaped(escaped: re.Match[str]) -> str:
    return _MEANT.get(escaped[1], escaped[0])
