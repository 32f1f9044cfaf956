"""How long an engine is left alone after its end."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from ftharness.pool.backoff import Backoff
from ftharness.pool.config import BackoffConfig

CONFIGS = st.builds(
    lambda initial, factor, times, jitter, stable: BackoffConfig(
        initial_s=initial, factor=factor, max_s=initial * times, jitter=jitter, stable_s=stable
    ),
    st.floats(0.001, 100.0),
    st.floats(1.0, 10.0),
    st.floats(1.0, 1000.0),
    st.floats(0.0, 0.99),
    st.floats(0.01, 1000.0),
)


def luck(seed: int) -> Random:
    return Random(seed)  # noqa: S311 - jitter that can be had again


def waits(config: BackoffConfig, count: int, *, jitter: int = 0) -> list[float]:
    backoff = Backoff(config, luck(jitter))
    return [backoff.failed(float(n)) for n in range(count)]


def test_the_default_is_a_second_doubled_to_a_minute() -> None:
    """1, 2, 4, 8, 16, 32, 60, 60 s, each within a tenth."""
    planned = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    for wait, expected in zip(waits(BackoffConfig(), 8), planned, strict=True):
        assert 0.9 * expected <= wait <= 1.1 * expected
    assert waits(BackoffConfig(jitter=0.0), 8) == planned


def test_engines_that_died_together_do_not_come_back_together() -> None:
    """Two with the same failures wait differently, and on average as planned."""
    firsts = [waits(BackoffConfig(), 1, jitter=seed)[0] for seed in range(200)]
    assert len(set(firsts)) == 200
    assert abs(sum(firsts) / 200 - 1.0) < 0.02
    assert max(firsts) > 1.08
    assert min(firsts) < 0.92


@given(CONFIGS, st.integers(1, 400), st.integers())
def test_every_wait_is_as_planned_within_the_jitter_and_under_the_cap(
    config: BackoffConfig, count: int, seed: int
) -> None:
    """Whatever the numbers: also after more failures than a power of the factor can be computed for."""
    backoff = Backoff(config, luck(seed))
    before = 0.0
    for failure in range(1, count + 1):
        planned = backoff.planned(failure)
        assert config.initial_s <= planned <= config.max_s
        assert planned >= before
        before = planned
        wait = backoff.failed(0.0)
        assert planned * (1 - config.jitter) * 0.999 <= wait <= planned * (1 + config.jitter) * 1.001


@given(CONFIGS, st.integers(1, 20), st.floats(0.0, 2.0))
def test_a_stable_run_and_no_shorter_one_begins_it_anew(config: BackoffConfig, failures: int, part: float) -> None:
    """The first wait comes again after ``stable_s`` seconds of service; not after less."""
    backoff = Backoff(config, luck(0))
    for _ in range(failures):
        backoff.failed(0.0)
    backoff.started(0.0)
    backoff.failed(config.stable_s * part)
    assert backoff.failures == (1 if config.stable_s * part >= config.stable_s else failures + 1)


def test_time_without_service_is_no_stable_run() -> None:
    """An engine that never came up has failed again, however long it took."""
    backoff = Backoff(BackoffConfig(jitter=0.0), luck(0))
    backoff.started(0.0)
    assert backoff.failed(1.0) == 1.0
    assert backoff.failed(10_000.0) == 2.0


def test_a_reset_begins_it_anew() -> None:
    """Somebody has seen to it."""
    backoff = Backoff(BackoffConfig(jitter=0.0), luck(0))
    assert [backoff.failed(0.0), backoff.failed(0.0)] == [1.0, 2.0]
    backoff.reset()
    assert backoff.failed(0.0) == 1.0
