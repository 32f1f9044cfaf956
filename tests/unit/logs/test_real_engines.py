"""The contracts of real engines and gateways on lines that their releases really logged, and on the metrics that they have."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ftharness.cli import app
from ftharness.contract_check import EXPECTED
from ftharness.logs import Scanner, load_contract
from ftharness.stack.provision import find_interpreter

HERE = Path(__file__).parent
# Of runs with one server: completions and chats, clients that left, killed engines and ranks, ends with and without a drain.
RECORDED = [json.loads(line) for line in (HERE / "real_lines.jsonl").read_text().splitlines()]
# The names of all samples on one page of each, read while a request was being answered.
MEASURED = [json.loads(line) for line in (HERE / "real_metrics.jsonl").read_text().splitlines()]
RELEASES = sorted({(one["backend"], one["version"]) for one in RECORDED})
GATEWAYS = [("smg", "1.13.0")]


def meaning(recorded: dict[str, Any], line: str) -> dict[str, dict[str, str]]:
    scanner = Scanner(load_contract(recorded["backend"], recorded["version"]))
    return {match.event: match.captures for match in scanner.feed(f"{line}\n".encode(), 0)}


@pytest.mark.parametrize(
    "recorded", RECORDED, ids=lambda one: "-".join((one["backend"], one["version"], *one["means"]))
)
def test_a_recorded_line_means_what_it_meant(recorded: dict[str, Any]) -> None:
    """Its events with their captures: the request's id as the client gave it, a process, a count."""
    assert meaning(recorded, recorded["line"]) == recorded["means"]


@pytest.mark.parametrize("backend,version", RELEASES)
def test_every_event_of_a_contract_was_seen(backend: str, version: str) -> None:
    """No contract claims an event that nobody has recorded of that very release."""
    contract = load_contract(backend, version)
    assert contract.known
    seen = {
        event for one in RECORDED if (one["backend"], one["version"]) == (backend, version) for event in one["means"]
    }
    assert set(contract.events) == seen


@pytest.mark.parametrize("backend,version", RELEASES)
def test_a_line_that_changes_is_missed(backend: str, version: str) -> None:
    """Each pattern's own words are needed: a line that says it otherwise means nothing, and so is noticed as missing."""
    contract = load_contract(backend, version)
    for recorded in RECORDED:
        if (recorded["backend"], recorded["version"]) == (backend, version):
            changed = recorded["line"]
            for literal in {
                pattern.literal for event in recorded["means"] for pattern in contract.events[event].pattern
            }:
                changed = changed.replace(literal, literal.swapcase())
            assert changed != recorded["line"]
            assert meaning(recorded, changed) == {}


@pytest.mark.parametrize("backend,version", RELEASES)
def test_contract_check_reads_a_log(tmp_path: Path, backend: str, version: str) -> None:
    """It passes on the recorded one; without the lines of an event that it must show, it says which, and does not."""
    log = tmp_path / "recorded.log"
    own = [one for one in RECORDED if (one["backend"], one["version"]) == (backend, version)]
    lacking = "client_disconnected" if (backend, version) in GATEWAYS else "request_aborted"
    for lines, status, mark in (
        (own, 0, "seen "),
        ([one for one in own if lacking not in one["means"]], 3, "MISSING"),
    ):
        log.write_text("".join(f"{one['line']}\n" for one in lines))
        answer = CliRunner().invoke(
            app, ["contract", "check", "--log", str(log), "--contract", f"{backend}=={version}"]
        )
        assert answer.exit_code == status
        assert answer.stdout.startswith(f"contract  {backend} {version}  {log}\n")
        (said,) = [line for line in answer.stdout.splitlines() if f" {lacking} " in f"{line} "]
        assert said.startswith(mark)


@pytest.mark.parametrize("measured", MEASURED, ids=lambda one: f"{one['backend']}-{one['version']}")
def test_every_metric_of_a_contract_was_measured(measured: dict[str, Any]) -> None:
    """Each name stands on the page of that very release."""
    metrics = load_contract(measured["backend"], measured["version"]).metrics
    assert metrics
    assert {metric.name for metric in metrics} <= set(measured["names"])


def test_every_release_has_a_page() -> None:
    """The metrics of no contract go unproven."""
    assert sorted((one["backend"], one["version"]) for one in MEASURED) == RELEASES


@pytest.mark.parametrize("backend,version", [one for one in RELEASES if one not in GATEWAYS])
def test_an_engine_says_what_oracles_go_by(backend: str, version: str) -> None:
    """By the names that these have on every stack. Nothing moves between engines, and their clients are no events."""
    contract = load_contract(backend, version)
    assert set(EXPECTED) - {"migration_started", "client_disconnected"} <= set(contract.events)
    assert {"engine_died", "listening"} <= set(contract.events)
    assert {"slots_busy", "kv_used", "tokens_generated"} <= {metric.event for metric in contract.metrics}


@pytest.mark.parametrize("backend,version", GATEWAYS)
def test_a_gateway_says_what_oracles_go_by(backend: str, version: str) -> None:
    """By the names that these events have for every frontend."""
    events = set(load_contract(backend, version).events)
    assert {"frontend_received", "request_routed", "client_disconnected", "worker_left", "request_failed"} <= events


@pytest.mark.parametrize("engine", ["sglang", "trtllm"])
def test_what_was_read_from_source_stands_in_it(engine: str) -> None:
    """Dynamo's handlers of engines that do not run here: each literal of theirs is in the code of the installed release."""
    python = find_interpreter("dynamo==1.6.1")
    if python is None:
        pytest.skip("Dynamo 1.6.1 is not provisioned; `ftharness provision dynamo==1.6.1`")
    (package,) = python.parent.parent.glob(f"lib/python3*/site-packages/dynamo/{engine}")
    said = "".join(path.read_text() for path in package.rglob("*.py") if "tests" not in path.parts)
    runtime = load_contract("dynamo-handler", "1.6.1").events
    contract = load_contract(f"dynamo-{engine}", "1.6.1")
    assert contract.known
    own = [
        pattern.literal for name in contract.events.keys() - runtime.keys() for pattern in contract.events[name].pattern
    ]
    assert own
    assert [literal for literal in own if literal not in said] == []
