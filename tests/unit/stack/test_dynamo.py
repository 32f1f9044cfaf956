"""Dynamo's contracts on lines that its releases really logged, its documented behaviour, its discovery, its interpreter."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from ftharness.logs import Scanner, load_contract
from ftharness.registry import installed
from ftharness.stack import NotAvailable, find_stack
from ftharness.stack.dynamo_behaviour import documented
from ftharness.stack.dynamo_discovery import expired, new_store
from ftharness.stack.dynamo_environment import dynamo_environment

RELEASES = ("1.4.2", "1.5.1", "1.6.1")
# Recorded from runs on these releases: docs/dynamo.md says how.
RECORDED = [json.loads(line) for line in Path(__file__).with_name("dynamo_lines.jsonl").read_text().splitlines()]


def events(recorded: dict[str, Any]) -> dict[str, dict[str, str]]:
    scanner = Scanner(load_contract(recorded["backend"], recorded["version"]))
    return {match.event: match.captures for match in scanner.feed(f"{recorded['line']}\n".encode(), 0)}


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda one: f"{one['backend']}-{one['version']}-{one['event']}")
def test_a_recorded_line_means_what_it_meant(recorded: dict[str, Any]) -> None:
    """One event, with its captures: the request's id, the worker, the code."""
    assert events(recorded) == {recorded["event"]: recorded["captures"]}


@pytest.mark.parametrize("backend", ["dynamo", "dynamo-mocker"])
@pytest.mark.parametrize("version", RELEASES)
def test_every_event_of_a_contract_was_seen(backend: str, version: str) -> None:
    """No contract claims an event that nobody has recorded of that very release."""
    contract = load_contract(backend, version)
    assert contract.known
    assert set(contract.events) == {
        one["event"] for one in RECORDED if (one["backend"], one["version"]) == (backend, version)
    }


@pytest.mark.parametrize("backend", ["dynamo", "dynamo-sim", "dynamo-mocker"])
@pytest.mark.parametrize("version", ["1.3.0", "1.7.0", "99.0", ""])
def test_outside_the_recorded_releases_nothing_is_known(backend: str, version: str) -> None:
    """There is a contract to try all the same."""
    contract = load_contract(backend, version)
    assert not contract.known
    assert "request_received" in contract.events or backend == "dynamo"


def test_scenarios_find_the_same_events_as_on_the_sim() -> None:
    """What a scenario, an oracle or a trigger names has one name on every stack."""
    sim = set(load_contract("sim", "").events)
    for version in RELEASES:
        frontend, mocker = (set(load_contract(name, version).events) for name in ("dynamo", "dynamo-mocker"))
        assert {"migration_started", "migration_exhausted", "client_disconnected", "worker_left"} <= frontend & sim
        assert {"request_received", "request_aborted", "draining", "drained"} <= mocker & sim


@pytest.mark.parametrize("stack", ["dynamo-sim", "dynamo-mocker"])
def test_every_release_has_every_documented_behaviour(stack: str) -> None:
    """The same names for each, so that no scenario falls back on a default; and none for a release that was not tried."""
    names = [set(documented(stack, version)) for version in RELEASES]
    assert names[0] == names[1] == names[2] >= {"migration_exhausted_stream", "graceful_shutdown_migrates"}
    assert documented(stack, "1.3.9") == documented(stack, "1.7.0") == {}


def test_an_entry_past_its_lease_is_found(tmp_path: Path) -> None:
    """One that nobody renewed for longer than the lease; a fresh one, and a dead worker's within it, are none."""
    store = new_store(tmp_path)
    (store / "v1" / "instances").mkdir(parents=True)
    for name, age_s in (("fresh", 0), ("dying", 9), ("leaked", 15)):
        entry = store / "v1" / "instances" / name
        entry.touch()
        os.utime(entry, (time.time() - age_s, time.time() - age_s))
    (found,) = expired(store)
    assert found.startswith("v1/instances/leaked: not renewed for 15.")


def test_each_launch_has_a_discovery_of_its_own(tmp_path: Path) -> None:
    """The second try of a launch does not see the first one's workers."""
    assert [new_store(tmp_path).name for _ in range(3)] == ["discovery", "discovery-2", "discovery-3"]


def test_a_shell_that_is_set_up_for_another_stack_does_not_reach_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its namespace would split ours, its status port collide; what it says of Dynamo otherwise is kept."""
    monkeypatch.setenv("DYN_NAMESPACE", "theirs")
    monkeypatch.setenv("DYN_SYSTEM_PORT", "8081")
    monkeypatch.setenv("DYN_DISCOVERY_BACKEND", "etcd")
    monkeypatch.setenv("DYN_HTTP_BACKEND_STREAM_TIMEOUT_SECS", "2")
    env = dynamo_environment(tmp_path)
    assert "DYN_NAMESPACE" not in env
    assert "DYN_SYSTEM_PORT" not in env
    assert (env["DYN_DISCOVERY_BACKEND"], env["DYN_FILE_KV"]) == ("file", str(tmp_path))
    assert env["DYN_HTTP_BACKEND_STREAM_TIMEOUT_SECS"] == "2"


@pytest.mark.parametrize("name", ["dynamo-sim", "dynamo-mocker"])
def test_without_dynamo_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The command that provisions it."""
    monkeypatch.setenv("FTHARNESS_CACHE", str(tmp_path))
    assert name in installed("ftharness.stacks")
    with pytest.raises(NotAvailable, match=r"`ftharness provision dynamo==1\.4\.2`"):
        find_stack(name).version(None)
