"""The lines of shadow engines: those of the installed releases of Dynamo, and ours, mean the same."""

import re
from pathlib import Path

import pytest

from ftharness.logs import Scanner, load_contract
from ftharness.stack.provision import find_interpreter

# Where each release says it: in its vLLM worker, and from 1.5 on in what all its workers share.
SAYS = [
    ("1.4.2", "vllm/worker_factory.py", ["standby", "waking", "awake"]),
    ("1.5.1", "common/snapshot/lifecycle.py", ["standby", "waking", "awake"]),
    ("1.6.1", "common/snapshot/lifecycle.py", ["standby", "waking", "awake"]),
]
LINES = [
    ("lock.acquire: Failover lock acquired: engine-1", {"lock_acquired": {"engine": "engine-1"}}),
    (
        "metrics.set_state: [Shadow] failover_state engine=1 -> standby",
        {"failover_state": {"engine": "1", "state": "standby"}},
    ),
    ("handlers.main: [Shadow] Wake failed, not registering: no memory", {"wake_failed": {"reason": "no memory"}}),
    (
        "fence._fence: Fenced engine-1: process 42 was silent for 0.501 s",
        {"fenced": {"engine": "engine-1", "pid": "42", "silent": "0.501"}},
    ),
]


def meaning(backend: str, version: str, text: str) -> dict[str, dict[str, str]]:
    scanner = Scanner(load_contract(backend, version))
    line = f"2026-01-31T12:00:00.123456Z  INFO {text}\n".encode()
    return {match.event: match.captures for match in scanner.feed(line, 0)}


@pytest.mark.parametrize("version,module,events", SAYS, ids=[f"{one[0]}-{Path(one[1]).stem}" for one in SAYS])
def test_each_line_of_a_release_means_an_event(version: str, module: str, events: list[str]) -> None:
    """Each that its code holds, in its order; taken from what is installed, so that a new form is seen."""
    python = find_interpreter(f"dynamo=={version}")
    if python is None:
        pytest.skip(f"Dynamo {version} is not provisioned; `ftharness provision dynamo=={version}`")
    (package,) = python.parent.parent.glob("lib/python3*/site-packages/dynamo")
    said = re.findall(r'"(\[Shadow\] [^"%]+)"', (package / module).read_text())
    assert [event for text in said for event in meaning("dynamo-sim", version, f"x.y: {text}")] == events


@pytest.mark.parametrize("text,means", LINES, ids=[next(iter(means)) for _, means in LINES])
def test_our_lines_mean_what_they_say(text: str, means: dict[str, dict[str, str]]) -> None:
    """On our own stack, and behind Dynamo's frontend."""
    assert meaning("sim", "", text) == means
    assert meaning("dynamo-sim", "1.6.1", text) == means
