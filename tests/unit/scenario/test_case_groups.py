"""Who of a run's processes shares a failover lock with whom."""

from ftharness.history import RunStarted
from ftharness.scenario.case import Case


def case(**params: int) -> Case:
    return Case([RunStarted(n=1, source="harness", scenario="s", stack="sim", params=params)])


def test_the_group_of_a_process_is_told_by_its_name() -> None:
    """Also of one that joined during the run; the frontend is in none."""
    told = {name: case(groups=2).group(name) for name in ("worker-2", "standby-1", "standby-4", "frontend")}
    assert told == {"worker-2": "worker-2", "standby-1": "worker-1", "standby-4": "worker-2", "frontend": ""}


def test_in_a_run_without_standbys_nobody_is_in_a_group() -> None:
    """Nor in one that was stored before there were any."""
    assert case().group("worker-1") == ""
