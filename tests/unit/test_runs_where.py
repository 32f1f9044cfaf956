"""Which scenarios run where, and what the others lack."""

import pytest

from ftharness.runs_where import runs_where
from ftharness.stack import sim_jobs, sim_pool


def test_what_is_missing_is_told_with_the_scenarios_that_lack_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extras most families run; of the others each says its own extra, not that of the first."""
    for module in (sim_jobs, sim_pool):
        monkeypatch.setattr(module, "find_spec", lambda _: None)
    (sim,) = (one for one in runs_where() if one.stack == "sim")
    jobs, pools = sim.missing.split("; ")
    assert jobs.startswith("checkpoint/*, coordinator/*: ")
    assert "pip install 'ftharness[torch]'" in jobs
    assert pools.startswith("pool/*: ")
    assert "pip install 'ftharness[pool]'" in pools
    assert "migration/*" in sim.scenarios
    assert not {"checkpoint/*", "coordinator/*", "pool/*"} & {*sim.scenarios}
