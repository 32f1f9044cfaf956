"""What the stack plans, without a cluster."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from ftharness.k8s import Deployment, K8sStack
from ftharness.logs import Scanner
from ftharness.logs.contract import Contract
from ftharness.scenario.library import find
from ftharness.scenario.words import check_words
from ftharness.stack import Plan, Settings, aggregated, find_stack


def plan(stack: K8sStack, folder: Path, **topology: Any) -> Plan:
    made = stack.plan(aggregated(**topology), Settings(engine="vllm", folder=folder))
    made.close()
    return made


def contract_of(made: Plan, name: str) -> Contract:
    return next(launch.contract for launch in made.launches if launch.name == name)


def test_engines_that_share_a_lock_are_a_group(tmp_path: Path) -> None:
    """By the names that every stack gives them, so that a fault's target means the same."""
    made = plan(K8sStack(), tmp_path, workers=2, standbys=1)
    groups = {launch.name: launch.group for launch in made.launches if launch.group}
    assert groups == {"worker-1": "worker-1", "standby-1": "worker-1", "worker-2": "worker-2", "standby-2": "worker-2"}


def test_a_shadows_lines_are_read(tmp_path: Path) -> None:
    """Those of Dynamo's vLLM workers in shadow mode; one line is two events, for nothing says that it serves."""
    scanner = Scanner(contract_of(plan(K8sStack(), tmp_path, workers=1, standbys=1), "standby-1"))
    lines = [
        "[Shadow] Engine paused, startup probe now passing",
        "Failover lock acquired: engine-1",
        "[Shadow] Lock acquired, waking engine",
        "[Shadow] Engine awake, registering with discovery",
        "New Request ID: abc",
    ]
    said = [match.event for match in scanner.feed("".join(f"{line}\n" for line in lines).encode(), 1)]
    assert said == ["standby", "lock_acquired", "waking", "awake", "ready", "request_received"]


def test_a_contract_may_stand_beside_the_stacks_file(tmp_path: Path) -> None:
    """As a stack of commands has it."""
    (tmp_path / "mine.toml").write_text('backend = "mine"\ninclude = ["vllm"]\n')
    (tmp_path / "cluster.toml").write_text('kind = "k8s"\ncontract = "mine.toml"\n')
    stack = find_stack(str(tmp_path / "cluster.toml"))
    assert isinstance(stack, K8sStack)
    assert contract_of(plan(stack, tmp_path, workers=1), "worker-1").backend == "mine"


def test_a_stack_of_commands_is_still_one(tmp_path: Path) -> None:
    """Only a file that says so is of this kind; one that cannot be read is its reader's to complain of."""
    (tmp_path / "mine.toml").write_text('name = "k8s"\nurl = "http://127.0.0.1:1"\nmodel = "m"\n[[process]]\n')
    with pytest.raises(Exception, match=r"mine\.toml:"):
        find_stack(str(tmp_path / "mine.toml"))


def test_the_requests_reach_a_port_of_this_machine(tmp_path: Path) -> None:
    """Loopback only, and the name of the model as it is served."""
    stack = K8sStack()
    stack.deployment = Deployment(model="my/model")
    made = plan(stack, tmp_path, workers=1)
    assert made.url.startswith("http://127.0.0.1:")
    assert (made.model, made.exact) == ("my/model", False)


def test_a_shadow_that_has_to_be_started_is_refused_with_the_reason(tmp_path: Path) -> None:
    """The kubelet restarts containers by itself: what joins is let through by its name, what starts it is not."""
    replenish = find(["failover/replenish"])[0]
    made = K8sStack().plan(replenish.topology, Settings(engine="vllm", folder=tmp_path))
    made.close()
    with pytest.raises(LookupError, match=r"the kubelet restarts the container .* Run failover/shadow_takeover there"):
        check_words(replenish, made)
    faults = [one for one in replenish.faults if one.fault.kind != "start_standby"]
    check_words(msgspec.structs.replace(replenish, faults=faults), made)
