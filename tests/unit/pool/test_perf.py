"""How fast engines are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftharness.pool.perf import Key, PerfHints


def key(version: str = "1", model: str = "m", mask: tuple[str, ...] = ("GPU-0",)) -> Key:
    return Key(version, model, mask)


def test_the_first_measurement_is_taken_as_it_is_and_the_next_is_smoothed() -> None:
    """A share of 0.3 for the newest."""
    hints = PerfHints()
    assert hints.hint(key()) is None
    hints.measured(key(), tokens_per_s=100.0, first_token_ms=50.0)
    hint = hints.measured(key(), tokens_per_s=200.0, first_token_ms=0.0)
    assert (hint.tokens_per_s, hint.first_token_ms, hint.samples) == (pytest.approx(130.0), pytest.approx(35.0), 2)
    assert hints.hint(key()) == hint


@pytest.mark.parametrize("other", [key(version="2"), key(model="n"), key(mask=("GPU-1",)), key(mask=())])
def test_each_version_model_and_mask_is_measured_apart(other: Key) -> None:
    """An engine that was updated is not as fast as the one before was."""
    hints = PerfHints()
    hints.measured(key(), tokens_per_s=100.0, first_token_ms=50.0)
    assert hints.hint(other) is None
    assert hints.measured(other, tokens_per_s=7.0, first_token_ms=1.0).tokens_per_s == 7.0


def test_only_so_many_are_remembered() -> None:
    """The one that was measured longest ago goes; one that is measured again stays."""
    hints = PerfHints(most=3)
    for version in ("1", "2", "3", "1", "4"):
        hints.measured(key(version=version), tokens_per_s=1.0, first_token_ms=1.0)
    assert [one.engine_version for one in hints.all()] == ["3", "1", "4"]
    assert len(hints) == 3


@given(st.lists(st.floats(0.1, 1e5), min_size=1, max_size=50))
def test_a_mean_is_within_what_was_measured(values: list[float]) -> None:
    """Whatever comes, in whatever order."""
    hints = PerfHints()
    for value in values:
        hint = hints.measured(key(), tokens_per_s=value, first_token_ms=value)
    assert min(values) * 0.999 <= hint.tokens_per_s <= max(values) * 1.001
    assert hint.samples == len(values)
