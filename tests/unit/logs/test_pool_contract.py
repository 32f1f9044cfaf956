"""The contract of the pool manager, on lines that its own log writes."""

import os
from typing import Any

import pytest

from ftharness.logs import Scanner, load_contract
from ftharness.pool.log_events import EVENTS
from ftharness.pool.log_sink import LineSink
from ftharness.pool.logs import PoolLog
from ftharness.process import Redactor

CONTRACT = load_contract("pool", "1")
# What an event says, where it is not a text.
NUMBERS = {
    "pid": 4711,
    "port": 8650,
    "failures": 3,
    "delay_ms": 1050,
    "expires_ms": 17,
    "deadline_ms": 500,
    "duration_ms": 20,
    "slots": 4,
}
TEXTS = {
    "exit": "exit status 1",
    "reason": 'it said "exit=0", pid=12 lease_id=none\nand on a second line: reason=none',
    "holder": "job-1/1",
    "url": "http://127.0.0.1:1",
    "host": "127.0.0.1",
    "lease_id": "0a-1",
    "on_timeout": "stop",
    "outcome": "drained",
    "model": "models/a b",
}
# By what the contract calls them, where that differs.
NAMES = {"lease_id": "lease", "model": "reference"}
SLOTS = {"engine_id": "main-1", "pool_id": "main"}


def known(pool_id: str, engine_id: str) -> dict[str, Any]:
    """What stands on each line, in the worst case: an error that looks like the line's own fields."""
    return {"model_id": "first", "last_error": f"{engine_id}: pid=7 lease_id=x\nreason=y correlation_id=z exit=0"}


@pytest.mark.parametrize("name", CONTRACT.events)
def test_each_line_of_the_managers_log_is_read(name: str) -> None:
    """It is an event of the log's own list, and each of its fields is captured whole, whatever an error before it holds."""
    assert name in EVENTS
    says = {field: NUMBERS.get(field, TEXTS.get(field)) for field in EVENTS[name].says}
    about = {} if name.startswith("manager_") else SLOTS
    ours, theirs = os.pipe()
    try:
        PoolLog(LineSink(theirs), redactor=Redactor(), level="debug", known=known).event(name, **about, **says)
        (match,) = Scanner(CONTRACT).feed(os.read(ours, 65_536), 0)
    finally:
        os.close(ours)
        os.close(theirs)
    assert match.event == name
    captured = {NAMES.get(field, field): str(value) for field, value in says.items() if field != "host"}
    slot = {"engine": "main-1", "pool": "main", "model": "first"} if about else {}
    assert match.captures.pop("at").endswith("Z")
    assert match.captures == captured | slot
