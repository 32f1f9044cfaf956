"""Metrics: Prometheus text into samples."""

from collections.abc import Iterator
from typing import NamedTuple


class Sample(NamedTuple):
    """One sample."""

    name: str
    value: float
    labels: dict[str, str]


def read_metrics(text: str) -> Iterator[Sample]:
    """The samples of a ``/metrics`` page.

    Raises:
        ValueError: It is not Prometheus text.
    """
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415 - 40 ms, only where it is read

    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield Sample(sample.name, float(sample.value), dict(sample.labels))
