"""docs/pool.md says what there is: each box of the checklist, each call, event, metric and field; and what it shows works."""

import ast
import inspect
import json
import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from ftharness.pool.config import (
    BackoffConfig,
    BreakerConfig,
    ContainerConfig,
    ManagerConfig,
    MountConfig,
    PoolConfig,
    ProbeConfig,
    WarmupConfig,
)
from ftharness.pool.endpoints import ENDPOINTS
from ftharness.pool.log_events import EVENTS
from ftharness.pool.metrics import PoolMetrics
from ftharness.pool.registry import Registry

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "pool.md").read_text()
#: The checklist's lines, each with its section before it.
BOXES = Path(__file__).with_name("checklist.txt").read_text().splitlines()
_TEST = re.compile(r"`((?:unit|fault_tolerance|integration|real|nightly)/[\w/]+\.py)::(\w+)`")
#: A reason is a sentence; less is a shrug.
_SENTENCE = 40


def rows(page: str) -> dict[str, str]:
    """What shows each box, by its section and its text."""
    found: dict[str, str] = {}
    section = ""
    for line in page.partition("\n## The checklist\n")[2].splitlines():
        if line.startswith("### "):
            section = line.removeprefix("### ")
        elif line.startswith("| ") and not line.startswith("| box |"):
            _, box, shown, _ = line.split(" | ".strip())
            found[f"{section}: {box.strip().removeprefix('↳ ')}"] = shown.strip()
    return found


def names_in(path: Path) -> set[str]:
    """The tests of a file, functions and classes, by its source."""
    tree = ast.parse(path.read_text())
    functions = {one.name for one in ast.walk(tree) if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef))}
    # A state machine is a test by an assignment: TestX = X.TestCase.
    assigned = {
        target.id
        for one in tree.body
        if isinstance(one, ast.Assign)
        for target in one.targets
        if isinstance(target, ast.Name)
    }
    return {name for name in functions if name.startswith("test_")} | {
        name for name in assigned if name.startswith("Test")
    }


def missing(page: str, boxes: list[str]) -> list[str]:
    """What is wrong with the table."""
    told = rows(page)
    wrong = [f"no row: {box}" for box in boxes if box not in told]
    wrong += [f"no box: {box}" for box in told if box not in boxes]
    for box, shown in told.items():
        tests = _TEST.findall(shown)
        if not tests and len(shown) < _SENTENCE:
            wrong.append(f"neither a test nor a reason: {box}")
        for file, name in tests:
            path = ROOT / "tests" / file
            if not path.exists() or name not in names_in(path):
                wrong.append(f"no test {file}::{name}: {box}")
    return wrong


def test_every_box_of_the_checklist_has_a_row() -> None:
    """And each row names tests that exist, or says in a sentence why none does."""
    assert len(BOXES) == 93
    assert missing(PAGE, BOXES) == []


@pytest.mark.parametrize(
    "old, new, problem",
    [
        ("| Device mask", "| One more | `make test` shows it, like everything else that is here. |\n| Device mask", "no box"),
        ("| Device mask validation.", "| Another one.", "no row"),
        ("test_a_crash_loop_follows_the_backoff", "test_a_crash_loop_follows", "no test fault_tolerance"),
        ("fault_tolerance/pool/test_api.py::", "fault_tolerance/pool/test_apo.py::", "no test fault_tolerance"),
        ("`make test`, which CI runs on every commit, is the gate.", "yes", "neither a test nor a reason"),
    ],
)  # fmt: skip
def test_a_table_that_says_too_little_is_found(old: str, new: str, problem: str) -> None:
    """Each of its faults, planted."""
    head, mark, table = PAGE.partition("\n## The checklist\n")
    changed = table.replace("↳ ", "").replace(old, new, 1)
    assert changed != table.replace("↳ ", "")
    assert any(one.startswith(problem) for one in missing(head + mark + changed, BOXES))


def test_every_call_event_metric_and_field_is_told() -> None:
    """Those that there are, and no others."""
    calls = {f"{one.method} {one.path}" for one in ENDPOINTS}
    table = PAGE.partition("## The HTTP API")[2].partition("\n- ")[0]
    assert set(re.findall(r"^\| `((?:GET|POST|PATCH|DELETE) [^`]+)`", table, re.MULTILINE)) == calls
    table = PAGE.partition("## The log")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(EVENTS)
    page = PoolMetrics(Registry([PoolConfig(id="p", engine="sim")])).text().decode()
    table = PAGE.partition("## Metrics")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(re.findall(r"^# HELP (\S+)", page, re.MULTILINE))


def keys_of(config: type[msgspec.Struct]) -> list[str]:
    """A row for each key that a file may have there: its name, its default, and what its docstring says of it."""
    text = inspect.getdoc(config) or ""
    meanings = dict(re.findall(r"^    (\w+): (.*(?:\n        .*)*)", text.partition("Attributes:")[2], re.MULTILINE))
    rows = []
    for field in msgspec.structs.fields(config):
        if field.encode_name == "pool" and config is ManagerConfig:
            continue
        default = field.default if field.default is not msgspec.NODEFAULT else None
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        shown = "none" if default is None else f"`{json.dumps(msgspec.to_builtins(default))}`"
        if isinstance(default, msgspec.Struct) or field.name == "container":
            shown = "a table"
        meaning = re.sub(r"\s+", " ", meanings[field.name]).replace("``", "`")
        rows.append(f"| `{field.encode_name}` | {'required' if field.required else shown} | {meaning} |")
    return rows


@pytest.mark.parametrize(
    "heading,config",
    [
        ("Of the manager", ManagerConfig),
        ("`[[pool]]`", PoolConfig),
        ("`[pool.probe]`", ProbeConfig),
        ("`[pool.backoff]`", BackoffConfig),
        ("`[pool.breaker]`", BreakerConfig),
        ("`[pool.warmup]`", WarmupConfig),
        ("`[pool.container]`", ContainerConfig),
        ("`[[pool.container.mounts]]`", MountConfig),
    ],
)
def test_every_key_of_the_configuration_is_told(heading: str, config: type[msgspec.Struct]) -> None:
    """With its default and its meaning, as they stand in the code; a change of either is made here, too."""
    table = PAGE.partition(f"\n### {heading}\n")[2].partition("\n#")[0]
    told = [line for line in table.splitlines() if line.startswith("| `")]
    assert told == keys_of(config), "\n".join(keys_of(config))


def test_the_configuration_that_it_shows_is_one() -> None:
    """As it stands."""
    texts = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert len(texts) == 2
    for text in texts:
        config = msgspec.convert(tomllib.loads(text), ManagerConfig)
        assert [pool.engine_ids for pool in config.pools] == [["warm-1", "warm-2"]]
