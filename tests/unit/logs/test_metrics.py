"""Prometheus text is read as Prometheus's own library reads it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ftharness.logs import Sample, read_metrics

values = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")
)


@given(values, values, st.floats())
def test_what_prometheus_writes_is_read_as_prometheus_reads_it(one: str, other: str, value: float) -> None:
    """Any label value, with quotes, braces, commas and escapes in it, and any number."""
    registry = CollectorRegistry()
    Gauge("busy", "Help, with a \\ and a {brace}", ["worker", "model"], registry=registry).labels(one, other).set(value)
    Counter("requests", "", ["status"], registry=registry).labels(other).inc()
    Histogram("seconds", "", registry=registry).observe(0.3)
    text = generate_latest(registry).decode()
    theirs = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    ours = list(read_metrics(text))
    assert [(s.name, s.labels) for s in ours] == [(s.name, dict(s.labels)) for s in theirs]
    assert all(
        a.value == b.value or math.isnan(a.value) == math.isnan(b.value) for a, b in zip(ours, theirs, strict=True)
    )


def test_what_other_writers_may_write() -> None:
    """Blanks, a trailing comma, a timestamp, infinity: all of these are in the format."""
    text = '# HELP a b\n\n a{ x = "1" , y="}" ,} +Inf 1700000000000\nb 2\nc{} -3e-2 \n'
    assert list(read_metrics(text)) == [
        Sample("a", math.inf, {"x": "1", "y": "}"}),
        Sample("b", 2.0, {}),
        Sample("c", -0.03, {}),
    ]


@pytest.mark.parametrize("text", ["<html>", "a{x=1} 2", "a", 'a{x="1"', "a{x} 2", "a b c"])
def test_what_is_no_metric_is_refused(text: str) -> None:
    """An error page is not an empty page of metrics."""
    with pytest.raises(ValueError, match=r".+"):
        list(read_metrics(text))
