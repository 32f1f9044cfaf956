"""When an engine is not started again."""

from hypothesis import given
from hypothesis import strategies as st

from ftharness.pool.breaker import Breaker
from ftharness.pool.config import BreakerConfig


def test_five_restarts_in_a_minute_are_let_through_and_the_sixth_is_not() -> None:
    """The default; a minute later it would have been."""
    quick = Breaker(BreakerConfig())
    assert [quick.restart(float(n)) for n in range(6)] == [True] * 5 + [False]
    assert quick.state == "open"
    slow = Breaker(BreakerConfig())
    assert [slow.restart(n * 12.0) for n in range(20)] == [True] * 20
    assert slow.state == "closed"


def test_it_stays_open_until_one_try_is_let_through() -> None:
    """Then it is half open; one that holds closes it, and it counts from nothing."""
    breaker = Breaker(BreakerConfig(restarts=1, window_s=60.0, half_open_s=300.0))
    assert [breaker.restart(0.0), breaker.restart(1.0)] == [True, False]
    assert breaker.half_open_at == 301.0
    assert not breaker.restart(300.9)
    assert not breaker.held()
    assert breaker.state == "open"
    assert breaker.restart(301.0)
    assert (breaker.state, breaker.half_open_at) == ("half_open", None)
    assert breaker.held()
    assert (breaker.state, breaker.restart(302.0)) == ("closed", True)


def test_a_try_that_comes_to_nothing_opens_it_again() -> None:
    """For as long as before, from then on."""
    breaker = Breaker(BreakerConfig(restarts=1, half_open_s=10.0))
    assert [breaker.restart(0.0), breaker.restart(0.0), breaker.restart(10.0)] == [True, False, True]
    assert not breaker.restart(11.0)
    assert (breaker.state, breaker.half_open_at) == ("open", 21.0)


def test_without_half_open_only_a_hand_closes_it() -> None:
    """It waits for ever."""
    breaker = Breaker(BreakerConfig(restarts=1, half_open_s=0))
    assert [breaker.restart(0.0), breaker.restart(0.0)] == [True, False]
    assert not breaker.restart(1e9)
    assert breaker.half_open_at is None
    breaker.reset()
    assert breaker.state == "closed"
    assert breaker.restart(1e9)


@given(
    st.integers(1, 6),
    st.floats(0.1, 100.0),
    st.lists(st.floats(0.0, 50.0), min_size=1, max_size=60),
)
def test_never_more_than_so_many_in_any_window(restarts: int, window_s: float, gaps: list[float]) -> None:
    """However the restarts come, until it opens; and it opens only where one more would have been too many."""
    breaker = Breaker(BreakerConfig(restarts=restarts, window_s=window_s, half_open_s=0))
    now, through = 0.0, []
    for gap in gaps:
        now += gap
        recent = [at for at in through if now - at < window_s]
        allowed = breaker.restart(now)
        assert allowed == (len(recent) < restarts)
        if not allowed:
            assert breaker.state == "open"
            return
        through.append(now)
