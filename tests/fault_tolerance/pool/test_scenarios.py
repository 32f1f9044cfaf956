"""The pool manager's scenarios that no planted bug runs; the others are run with each of its bugs, and once without."""

import pytest

from ftharness.history import FaultLanded, Log, read_history
from ftharness.pytest_plugin import Ft

pytestmark = [pytest.mark.gpu_0, pytest.mark.pre_merge]


def test_a_thousand_leases_at_once_while_engines_die(ft: Ft) -> None:
    """All are held when the first engine dies; each ends once, and the holders of those that are lost see it."""
    record = ft.run("pool/lease_storm", stack="sim")
    events = read_history(ft.folder / record.path / "history.jsonl")
    (done,) = [one for one in events if isinstance(one, Log) and (one.event, one.source) == ("job_finished", "job-1")]
    assert done.captures["most"] == "1000"
    lost = int(done.captures["lost"])
    assert lost >= 200, "of the 250 on the first engine alone; on a slow machine some may have been given back"
    (conserved,) = [one for one in record.oracles if one.name == "leases_conserved()"]
    assert conserved.reason == f"1,400 leases = {1400 - lost:,} released + {lost} revoked; at most 1,000 at once"


def test_engines_end_with_a_manager_that_is_killed(ft: Ft) -> None:
    """The next one finds them gone, and in each slot is one process, which it has started."""
    record = ft.run("pool/manager_killed", stack="sim")
    events = read_history(ft.folder / record.path / "history.jsonl")
    said = [one for one in events if isinstance(one, Log) and one.source == "pool.2"]
    gone = {one.captures["engine"] for one in said if one.event == "engine_gone"}
    started = {one.captures["engine"]: int(one.captures["pid"]) for one in said if one.event == "engine_started"}
    assert gone == set(started) == {"main-1", "main-2"}
    (look,) = [one for one in events if isinstance(one, FaultLanded) and "engines" in one.evidence]
    assert look.evidence["engines"] == {slot: [pid] for slot, pid in started.items()}
