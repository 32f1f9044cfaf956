"""A planted bug of what a scenario does not run is no bug there."""

import pytest

from ftharness.engine.bugs import BUGS, Bug
from ftharness.pytest_plugin import Ft
from ftharness.scenario.library import find, shipped
from ftharness.scenario.planted import can_show, idle_among
from ftharness.scenario.scenario import with_params


@pytest.mark.parametrize("bug", BUGS.values(), ids=lambda bug: bug.name)
def test_each_can_show_where_it_is_revealed(bug: Bug) -> None:
    """In its own scenario, by definition."""
    assert can_show(bug.name, shipped()[bug.scenario])


@pytest.mark.parametrize(
    "bug,name,can",
    [
        ("flat-backoff", "migration/worker_failure", False),
        ("flat-backoff", "checkpoint/corruption", False),
        ("drop-token", "checkpoint/corruption", False),
        ("drop-token", "pool/crash_loop", False),
        ("drop-token", "migration/drain", True),  # where it need not show
        ("forget-checkpoints", "pool/crash_loop", False),  # whose job leases
        ("forget-checkpoints", "coordinator/poison_batch", True),
        ("poison-for-ever", "checkpoint/corruption", False),  # whose job has no ranks
        ("released-lock", "migration/worker_failure", False),
        ("handed-on-anyway", "cancellation/aggregated", False),
        ("handed-on-anyway", "cancellation/decode_cancel", True),
    ],
)
def test_it_can_show_where_its_part_runs(bug: str, name: str, can: bool) -> None:
    """Whatever that part is."""
    assert can_show(bug, shipped()[name]) is can


def test_one_that_is_asked_for_by_name_is_refused() -> None:
    """With what the bug is of, the scenario that reveals it, and the bugs that can show here."""
    (one,) = find(["checkpoint/corruption"])
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the message is looked at below
        idle_among("flat-backoff", [one], ["checkpoint/corruption"])
    said = str(refused.value)
    assert said.startswith(
        "checkpoint/corruption: the planted bug flat-backoff is one of a manager of pools, which this "
    )
    assert "pool/crash_loop is there to reveal it" in said
    there = said.partition("those that can show in it are ")[2].split(", ")
    assert {"trust-corrupted", "forget-checkpoints"} <= set(there)
    assert not {"drop-token", "poison-for-ever", "flat-backoff"} & set(there)


def test_what_was_set_counts() -> None:
    """A job that is given ranks can show what is wrong with those."""
    one = with_params(find(["coordinator/poison_batch"])[0], {"ranks": "0"})
    assert not can_show("poison-for-ever", one)


def test_of_a_family_those_without_it_are_left_out() -> None:
    """Unless one of them is asked for by its name, or nothing is left."""
    family = find(["cancellation/*"])
    idle = idle_among("handed-on-anyway", family, ["cancellation/*"])
    assert "cancellation/aggregated" in idle
    assert "cancellation/prefill_cancel" not in idle
    with pytest.raises(
        ValueError, match=r"^cancellation/aggregated: the planted bug handed-on-anyway is one of prefill"
    ):
        idle_among("handed-on-anyway", family, ["cancellation/*", "cancellation/aggregated"])
    with pytest.raises(ValueError, match="the planted bug flat-backoff is one of a manager of pools"):
        idle_among("flat-backoff", family, ["cancellation/*"])


def test_a_test_of_ones_own_is_told_as_well(ft: Ft) -> None:
    """Before anything starts."""
    with pytest.raises(ValueError, match="the planted bug flat-backoff is one of a manager of pools"):
        ft.run("migration/drain", stack="sim", bug="flat-backoff")
    assert not list(ft.folder.rglob("history.jsonl"))
