"""Worker groups: who belongs to whom, what each is told, who joins."""

from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftharness.stack import NotApplicable, Plan, Settings, aggregated, find_stack
from ftharness.stack.groups import Groups, group_of, is_standby

TELL = ("FAILOVER_LOCK_PATH", "ENGINE_ID", "FAILOVER_HEARTBEAT_S")


@given(st.integers(1, 8), st.integers(1, 7))
def test_every_group_has_its_worker_and_as_many_standbys(workers: int, standbys: int) -> None:
    """By the names alone, so that a stored history tells it."""
    topology = aggregated(workers=workers, standbys=standbys)
    names = [name for name, _ in topology.members]
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(group_of(name, workers), []).append(name)
    assert set(groups) == {f"worker-{k + 1}" for k in range(workers)}
    assert all(group in members and len(members) == 1 + standbys for group, members in groups.items())
    assert topology.serving == workers


@pytest.mark.parametrize("name", ["frontend", "worker", "worker-0", "standby-x", "worker-1.engine", "prefill-1"])
def test_whoever_is_not_of_a_group_is_in_none(name: str) -> None:
    """And without standbys nobody is."""
    assert group_of(name, 2) == ""
    assert group_of("worker-1", 0) == ""
    assert not is_standby(name) or name == "standby-x"


def test_members_of_a_group_are_told_of_one_lock(tmp_path: Path) -> None:
    """Under an id of its own each; another group has another lock, another launch another folder."""
    topology = aggregated(workers=2, standbys=2, heartbeat_s=0.1)
    groups = Groups(topology, tmp_path)
    told = {name: groups.told(name) for name, _ in topology.members}
    locks = {name: one["FAILOVER_LOCK_PATH"] for name, one in told.items()}
    assert len(set(locks.values())) == 2
    assert all(locks[name] == locks[groups.of(name)] for name in locks)
    assert sorted((groups.of(name), one["ENGINE_ID"]) for name, one in told.items()) == [
        (f"worker-{group}", f"{engine}") for group in (1, 2) for engine in (0, 1, 2)
    ]
    assert {one["FAILOVER_HEARTBEAT_S"] for one in told.values()} == {"0.1"}
    assert all(Path(path).parent.is_dir() for path in locks.values())
    again = Groups(topology, tmp_path).told("worker-1")
    assert again["FAILOVER_LOCK_PATH"] not in locks.values()


def test_who_joins_has_a_name_and_an_engine_id_of_its_own(tmp_path: Path) -> None:
    """Each time; in the group that it is started for."""
    groups = Groups(aggregated(workers=2, standbys=1), tmp_path)
    joined = [groups.joins(group) for group in ("worker-1", "worker-1", "worker-2")]
    assert joined == ["standby-3", "standby-5", "standby-4"]
    assert [groups.of(name) for name in joined] == ["worker-1", "worker-1", "worker-2"]
    assert [groups.told(name)["ENGINE_ID"] for name in joined] == ["2", "3", "2"]
    assert "FAILOVER_HEARTBEAT_S" not in groups.told("worker-1")


def planned(tmp_path: Path, **fields: Any) -> Plan:
    plan = find_stack("sim").plan(aggregated(**fields), Settings(engine="vllm", folder=tmp_path))
    plan.close()
    return plan


def test_a_plan_tells_each_member_and_can_make_one_more(tmp_path: Path) -> None:
    """The environment, the group, and what the waking costs; the one that joins is like those that are there."""
    plan = planned(tmp_path, workers=1, standbys=1, wake_s=0.25, heartbeat_s=0.1, fence_s=0.5)
    assert plan.join is not None
    launches = [*plan.launches[1:], plan.join("worker-1")]
    assert [launch.name for launch in launches] == ["worker-1", "standby-1", "standby-2"]
    for engine, launch in zip(count(), launches, strict=False):
        told = dict(zip(launch.argv, launch.argv[1:], strict=False))
        assert (told["--name"], told["--wake-s"], told["--fence-s"]) == (launch.name, "0.25", "0.5")
        assert (launch.group, launch.role, launch.env["ENGINE_ID"]) == ("worker-1", "aggregated", str(engine))
    assert len({launch.env["FAILOVER_LOCK_PATH"] for launch in launches}) == 1
    assert plan.asks == {"nvext": {"extra_fields": ["engine_data"]}}


def test_without_standbys_nothing_is_said_of_any(tmp_path: Path) -> None:
    """No lock, no folder, no arguments, nothing more in a request; nobody can join."""
    plan = planned(tmp_path, workers=2)
    assert (plan.join, dict(plan.asks)) == (None, {})
    for launch in plan.launches[1:]:
        assert not set(TELL) & set(launch.env)
        assert not {"--wake-s", "--fence-s"} & set(launch.argv)
        assert launch.group == ""
    assert not list(tmp_path.iterdir())


def test_a_stack_without_shadow_engines_says_so(tmp_path: Path) -> None:
    """Before anything is looked for or started."""
    with pytest.raises(NotApplicable, match=r"standbys = 1 does not exist on dynamo-mocker: the mocker has no shadow"):
        find_stack("dynamo-mocker").plan(aggregated(standbys=1), Settings(engine="vllm", folder=tmp_path))
