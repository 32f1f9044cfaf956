"""What can be launched, what cannot, and how the one that reads it is told."""

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftharness.engine.settings import STRATEGIES
from ftharness.registry import installed
from ftharness.stack import NotApplicable, Settings, Topology, aggregated, disaggregated, find_stack
from ftharness.stack.plan import has_strategy
from ftharness.stack.topology import MOST_WORKERS

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"workers": 0}, "workers = 0: must be at least 1"),
    ({"migration_max_seq_len": 0}, "migration_max_seq_len = 0: must be at least 1"),
    ({"workers": 65}, "workers = 65: at most 64 in all; each is two processes or more"),
    ({"prefill": 1}, "prefill = 1: must be 0 without a strategy: disaggregated(prefill=…, decode=…, strategy=…) has"),
    ({"decode": 1}, "decode = 1: must be 0 without a strategy"),
    ({"workers": 0, "strategy": "decode_first", "decode": 1}, "prefill = 0: must be at least 1"),
    ({"workers": 0, "strategy": "decode_first", "prefill": 1}, "decode = 0: must be at least 1"),
    (
        {"strategy": "prefill_first", "prefill": 1, "decode": 1},
        "workers = 2: must be 0 with strategy = prefill_first, whose workers are counted by prefill and decode",
    ),
    (
        {"workers": 0, "strategy": "decode_first", "prefill": 40, "decode": 25},
        "prefill = 40 + decode = 25: at most 64 in all; each is two processes or more",
    ),
    ({"migration_limit": -1}, "migration_limit = -1: must be at least 0"),
    ({"slots": 0}, "slots = 0: must be at least 1"),
    ({"speed": 0}, "speed = 0: must be more than 0"),
    ({"prefill_tokens_per_s": -1}, "prefill_tokens_per_s = -1: must be more than 0"),
    ({"kv_tokens_per_s": float("nan")}, "kv_tokens_per_s = nan: must be more than 0"),
    ({"drain_s": -1}, "drain_s = -1: must not be less than 0"),
    ({"standbys": -1}, "standbys = -1: must be at least 0"),
    ({"standbys": 32}, "workers = 2 with standbys = 32 each: at most 64 in all"),
    ({"standbys": 1, "wake_s": -1}, "wake_s = -1: must not be less than 0"),
    ({"heartbeat_s": 0.1}, "heartbeat_s = 0.1: must be none without standbys"),
    ({"standbys": 1, "heartbeat_s": 0}, "heartbeat_s = 0: must be more than 0, or none at all"),
    ({"standbys": 1, "fence_s": 1}, "fence_s = 1: must be more than heartbeat_s, which is none"),
    ({"standbys": 1, "heartbeat_s": 0.5, "fence_s": 0.5}, "fence_s = 0.5: must be more than heartbeat_s, which is 0.5"),
    (
        {"workers": 0, "strategy": "decode_first", "prefill": 1, "decode": 1, "standbys": 1},
        "standbys = 1: must be 0 with strategy = decode_first; shadow engines do both phases",
    ),
]


@pytest.mark.parametrize("fields,says", WRONG, ids=[says.partition(":")[0] for _, says in WRONG])
def test_what_cannot_be_launched_is_refused_by_its_field(fields: dict[str, Any], says: str) -> None:
    """With its value, and what it may be."""
    with pytest.raises(ValueError, match=f"^{re.escape(says)}"):
        Topology(**fields)


def test_a_strategy_that_does_not_exist_is_refused_where_it_is_read() -> None:
    """From a stored scenario, or from ``--set``: by the names that there are."""
    data = msgspec.to_builtins(disaggregated()) | {"strategy": "router_first"}
    with pytest.raises(msgspec.ValidationError, match="strategy"):
        msgspec.convert(data, Topology)


@given(
    st.integers(1, MOST_WORKERS - 1), st.sampled_from([name for name in STRATEGIES if name != "aggregated"]), st.data()
)
def test_any_split_is_a_topology(prefill: int, strategy: Any, data: st.DataObject) -> None:
    """Up to the bound on all; each worker has a name and its role, and it can be stored and read."""
    decode = data.draw(st.integers(1, MOST_WORKERS - prefill))
    topology = disaggregated(prefill=prefill, decode=decode, strategy=strategy)
    assert len(topology.members) == len({name for name, _ in topology.members}) == prefill + decode
    assert [name for name, role in topology.members if role == "decode"] == [f"decode-{n + 1}" for n in range(decode)]
    assert [name for name, role in topology.members if role == "prefill"] == [
        f"prefill-{n + 1}" for n in range(prefill)
    ]
    assert msgspec.json.decode(msgspec.json.encode(topology), type=Topology) == topology


def test_workers_that_do_both_are_named_as_ever() -> None:
    """By numbers, in the role ``aggregated``."""
    assert aggregated(workers=2).members == [("worker-1", "aggregated"), ("worker-2", "aggregated")]


def test_where_prefill_and_decode_cannot_be_apart_that_is_said(tmp_path: Any) -> None:
    """Of the stacks that ship, before anything is looked for or started; an aggregated topology is let through."""
    says = r"decode_first \(1 prefill and 2 decode workers\) does not exist on (dynamo|k8s|vllm|sglang|smg)"
    for name in set(installed("ftharness.stacks")) - {"sim"}:
        with pytest.raises(NotApplicable, match=says):
            find_stack(name).plan(disaggregated(decode=2), Settings(engine="vllm", folder=tmp_path))
    has_strategy(aggregated(), "any")
    has_strategy(disaggregated(), "any", "prefill_first", "decode_first")


@pytest.mark.parametrize("strategy", [None, "decode_first"])
def test_the_simulated_stack_plans_each_worker_in_its_role(tmp_path: Any, strategy: Any) -> None:
    """The process has the name and the role of the topology's member, and is told both, and how fast it is."""
    topology = disaggregated(prefill=2, strategy=strategy) if strategy else aggregated()
    topology = msgspec.structs.replace(topology, prefill_tokens_per_s=1_234_567.0, kv_tokens_per_s=89.5)
    plan = find_stack("sim").plan(topology, Settings(engine="vllm", folder=tmp_path))
    plan.close()
    frontend, *workers = plan.launches
    assert [(worker.name, worker.role) for worker in workers] == topology.members
    for worker in workers:
        told = dict(zip(worker.argv, worker.argv[1:], strict=False))
        assert (told["--name"], told["--role"]) == (worker.name, worker.role)
        assert (float(told["--prefill-tokens-per-s"]), float(told["--kv-tokens-per-s"])) == (1_234_567.0, 89.5)
    assert ("--strategy" in frontend.argv) == bool(strategy)
