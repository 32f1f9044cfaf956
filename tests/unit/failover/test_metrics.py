"""The metrics of a failover: by Dynamo's names, and counters that outlive the engine."""

import logging
import random
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ftharness.failover.metrics import FailoverMetrics, create_failover_metrics
from ftharness.logs import read_metrics

PREFIX = "dynamo_component_engine_failover_"
# A child that counts for as long as it is left alive; it says when it has begun.
COUNTS = """
import os, sys
from pathlib import Path
from ftharness.failover.metrics import create_failover_metrics
metrics = create_failover_metrics(None, "3", "sim", "backend", sys.argv[1])
os.write(1, b"x")
while True:
    metrics.record_switch_attempt()
    metrics.record_switch_success()
"""


def values(metrics: FailoverMetrics, name: str) -> dict[str, float]:
    """By what its samples are labelled with beside what all are."""
    common = {"engine_id", "model", "dynamo_component"}
    found = {}
    for sample in read_metrics(metrics.text()):
        assert common <= set(sample.labels)
        if sample.name == PREFIX + name:
            found[" ".join(value for key, value in sample.labels.items() if key not in common)] = sample.value
    return found


def test_a_page_shows_where_an_engine_is_and_how_it_came_there(tmp_path: Path) -> None:
    """One state has 1, all others 0; every step is counted; all is there from the start, as 0."""
    metrics = create_failover_metrics(None, "1", "sim", "backend", str(tmp_path))
    assert set(values(metrics, "state").values()) == {0}
    assert values(metrics, "switch_attempts_total") == values(metrics, "switch_success_total") == {"": 0}
    for state in ("init", "standby", "standby", "waking", "active"):
        metrics.set_state(state)
    assert values(metrics, "state") == {"init": 0, "standby": 0, "waking": 0, "active": 1}
    assert values(metrics, "transitions_total") == {"init standby": 1, "standby waking": 1, "waking active": 1}
    assert set(values(metrics, "last_state_duration_seconds")) == {"init", "standby", "waking"}
    assert values(metrics, "state_entered_timestamp_seconds")[""] > 1.7e9


def test_the_lines_of_its_states_are_dynamos(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One for each state that it enters; of one that is none there is a warning, and nothing else."""
    metrics = create_failover_metrics(None, "1", "sim", "backend", str(tmp_path))
    with caplog.at_level(logging.INFO, "ftharness.failover.metrics"):
        for state in ("init", "init", "asleep"):
            metrics.set_state(state)
    assert [record.getMessage() for record in caplog.records] == [
        "[Shadow] failover_state engine=1 -> init",
        "[Shadow] ignoring unknown failover state 'asleep'; there are init, standby, waking, active, dead",
    ]


def test_an_engine_that_is_started_again_goes_on_counting(tmp_path: Path) -> None:
    """Under its own id, from where it was; what it was killed in counts as a step to its death. Another id starts at 0."""
    first = create_failover_metrics(None, "1", "sim", "backend", str(tmp_path))
    for state in ("init", "standby", "waking", "active"):
        first.set_state(state)
    first.record_switch_attempt()
    again = create_failover_metrics(None, "1", "sim", "backend", str(tmp_path))
    assert values(again, "switch_attempts_total") == {"": 1}
    assert values(again, "transitions_total")["active dead"] == 1
    assert set(values(again, "state").values()) == {0}
    again.set_state("init")
    assert values(again, "transitions_total")["init standby"] == 1
    assert values(create_failover_metrics(None, "2", "sim", "backend", str(tmp_path)), "switch_attempts_total") == {
        "": 0
    }


def test_counters_survive_a_kill_at_any_instant(tmp_path: Path) -> None:
    """20 children that count without a pause are killed at random moments: what is kept is whole, and never less than before."""
    moments = random.Random(7)  # noqa: S311 - a seeded schedule, no secret
    last = 0.0
    for kills in range(1, 21):
        child = subprocess.Popen([sys.executable, "-c", COUNTS, str(tmp_path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.read(1) == b"x"
        select.select([], [], [], moments.uniform(0, 0.01))  # the moment itself is what varies
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        kept = create_failover_metrics(None, "3", "sim", "backend", str(tmp_path))
        attempts = values(kept, "switch_attempts_total")[""]
        assert 0 <= attempts - values(kept, "switch_success_total")[""] <= kills  # a kill in between costs one
        assert attempts >= last
        last = attempts
    assert last > 0


def test_an_engine_serves_though_its_counters_cannot_be_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder that is gone costs what would be kept, and a line says so."""
    folder = tmp_path / "gone"
    folder.mkdir()
    metrics = create_failover_metrics(None, "1", "sim", "backend", str(folder))
    folder.rmdir()
    metrics.record_switch_attempt()
    assert values(metrics, "switch_attempts_total") == {"": 1}
    assert "cannot keep the failover counters of engine 1" in caplog.text
