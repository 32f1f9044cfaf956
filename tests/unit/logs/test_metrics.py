"""A page of metrics becomes samples."""

import pytest

from ftharness.logs import Sample, read_metrics


def test_samples_have_name_value_and_labels() -> None:
    """Each with the name that stands on the page, a counter's ending included; help and types are no samples."""
    text = """# HELP moved_total Requests that moved
# TYPE moved_total counter
moved_total{kind="ongoing",model="a \\"b\\""} 2
# TYPE busy gauge
busy 0.5
"""
    assert list(read_metrics(text)) == [
        Sample("moved_total", 2.0, {"kind": "ongoing", "model": 'a "b"'}),
        Sample("busy", 0.5, {}),
    ]


def test_what_is_no_metric_is_refused() -> None:
    """An error page is not an empty page of metrics."""
    with pytest.raises(ValueError, match=r".+"):
        list(read_metrics("<html>no such page</html>"))
