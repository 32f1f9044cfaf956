"""The ways from one state to the next."""

from itertools import product

import pytest

from ftharness.failover.states import HEALTHY, NEXT, STATES, illegal_step, may_go


def test_from_every_state_it_is_told_where_it_goes() -> None:
    """And each can be reached, but the first; the last leads nowhere."""
    assert set(NEXT) == set(STATES)
    assert set().union(*NEXT.values()) == set(STATES) - {"init"}
    assert NEXT["dead"] == frozenset()
    assert set(STATES) > HEALTHY


def test_nobody_serves_who_was_not_woken() -> None:
    """Of all pairs only a waking engine becomes active, and only one that waited is woken."""
    assert [before for before in STATES if may_go(before, "active")] == ["waking"]
    assert [before for before in STATES if may_go(before, "waking")] == ["standby"]
    assert all(may_go(state, "dead") for state in STATES if state != "dead")


@pytest.mark.parametrize(
    "walked,step",
    [
        (["init", "standby", "waking", "active", "dead"], None),
        (["init", "standby", "dead"], None),
        ([], None),
        (["init", "standby", "active"], ("standby", "active")),
        (["init", "standby", "waking", "active", "standby"], ("active", "standby")),
        (["standby", "waking"], ("", "standby")),
        (["init", "asleep"], ("init", "asleep")),
    ],
)
def test_the_first_step_that_may_not_be_is_named(walked: list[str], step: tuple[str, str] | None) -> None:
    """With both its ends."""
    assert illegal_step(walked) == step


@pytest.mark.parametrize("before,after", list(product(("", "gone"), STATES)))
def test_what_is_no_state_leads_nowhere(before: str, after: str) -> None:
    """And raises nothing: an oracle is asked about what a log says."""
    assert not may_go(before, after)
