"""A pool manager as part of the stack ``sim``: what is written for it, and what is refused."""

import json
from pathlib import Path

import pytest

from ftharness.engine.bugs import BUGS, PLANTED
from ftharness.faults import kill, named
from ftharness.pool.config import BackoffConfig, ManagerConfig, PoolConfig, ProbeConfig
from ftharness.pool.config_file import load_config
from ftharness.pool.planted import PLANTED as FUNCTIONS
from ftharness.scenario import Scenario, on_log
from ftharness.scenario.scenario import with_params
from ftharness.scenario.words import check_words
from ftharness.stack import NotApplicable, NotAvailable, Settings, find_stack, jobs_only, leases, pooled, sim_pool

POOLS = [
    PoolConfig(
        id="main", engine="sim", replicas=2, probe=ProbeConfig(interval_s=0.25), args=["--a", 'with "quotes"\n\\']
    ),
    PoolConfig(id="other", engine="sim", env={"A": "b=c", "DE": ""}, device_mask=[], backoff=BackoffConfig(jitter=0)),
]


def test_the_file_says_what_the_topology_does(tmp_path: Path) -> None:
    """Read back, it is the same configuration; each model's folder is there, with how its engine misbehaves."""
    topology = pooled(*POOLS, models={"models/broken": {"exit_at_start": 1}}, engines_survive=True, fail_mode="open")
    plan = find_stack("sim").plan(topology, Settings(engine="", folder=tmp_path, jobs=[leases()]))
    plan.close()
    (manager,) = plan.launches
    assert manager.cwd == tmp_path / "pool"
    for path, text in manager.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    read = load_config(tmp_path / "pool" / "pool.toml")
    folder = str(tmp_path / "pool" / ".ftharness-pool")
    assert read == ManagerConfig(pools=POOLS, engines_survive=True, fail_mode="open", state_dir=folder)
    assert json.loads((tmp_path / "pool" / "models" / "broken" / "misbehave.json").read_text()) == {"exit_at_start": 1}
    (job,) = plan.jobs.fault
    assert job.job.argv[-2:] == ["--url", f"http://127.0.0.1:{manager.ports['http']}"]
    (control,) = plan.jobs.control
    assert control.job.argv[-1] == "--control"


def test_what_cannot_be_a_manager_is_refused(tmp_path: Path) -> None:
    """One without a pool; a model elsewhere; a job that leases where nobody grants."""
    with pytest.raises(ValueError, match=r"at least one pool: pooled\(PoolConfig\(…\)\)"):
        pooled()
    for name in ("/models/x", "../x", "a/../../x"):
        with pytest.raises(ValueError, match="is to lie in the manager's own folder"):
            pooled(POOLS[0], models={name: {}})
    with pytest.raises(NotApplicable, match="a job that leases engines, and no pool manager"):
        find_stack("sim").plan(jobs_only(), Settings(engine="", folder=tmp_path, jobs=[leases()]))


def test_a_line_that_no_manager_says_is_refused(tmp_path: Path) -> None:
    """Its trigger would never fire; and nothing has been written for it."""
    one = Scenario(
        name="pool/test",
        topology=pooled(POOLS[0]),
        workload=[],
        jobs=[leases()],
        faults=[on_log("engine_startet", source="pool").inject(kill(named("pool")))],
    )
    plan = find_stack("sim").plan(one.topology, Settings(engine="", folder=tmp_path, jobs=one.jobs))
    plan.close()
    with pytest.raises(LookupError, match="no contract has the event 'engine_startet'; did you mean engine_started"):
        check_words(one, plan)
    assert not list(tmp_path.iterdir())


def test_without_structlog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said how to get it."""
    monkeypatch.setattr(sim_pool, "find_spec", lambda _: None)
    with pytest.raises(NotAvailable, match=r"pip install 'ftharness\[pool\]'"):
        find_stack("sim").plan(pooled(POOLS[0]), Settings(engine="", folder=tmp_path, jobs=[leases()]))


def test_each_bug_of_a_manager_is_planted() -> None:
    """What ``list --bugs`` tells of is there, and nothing else is."""
    assert {bug.name for bug in BUGS.values() if bug.where == PLANTED} == set(FUNCTIONS)


def test_what_can_be_set_of_a_pool() -> None:
    """Each field of each, by ``pool.NAME``; what the manager would refuse is refused."""
    one = Scenario(name="pool/test", topology=pooled(*POOLS), workload=[], jobs=[leases()])
    changed = with_params(one, {"pool.slots_per_engine": "7", "pool.probe": '{"interval_s": 9}'}).topology.pool
    assert changed is not None
    assert [(pool.slots_per_engine, pool.probe.interval_s) for pool in changed.manager.pools] == [(7, 9.0), (7, 9.0)]
    with pytest.raises(ValueError, match=r"nothing named 'pool.replica' to set; did you mean pool.replicas"):
        with_params(one, {"pool.replica": "7"})
    with pytest.raises(ValueError, match="replicas"):
        with_params(one, {"pool.replicas": "0"})
