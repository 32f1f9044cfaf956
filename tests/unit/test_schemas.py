"""The schemas that ship are those of the types, and every stored run validates."""

from pathlib import Path
from typing import Any

import jsonschema
import msgspec

import ftharness
from ftharness.history import json_schema
from ftharness.pytest_plugin import Ft
from ftharness.report import run_schema

SCHEMAS = Path(ftharness.__file__).parent / "schemas"


def _shipped(name: str) -> Any:
    return msgspec.json.decode((SCHEMAS / name).read_bytes())


def test_the_files_are_the_types() -> None:
    """Made by tools/make_schemas.py, which has to be run when a type changes."""
    for name, schema in (("history.schema.json", json_schema()), ("run.schema.json", run_schema())):
        assert _shipped(name) == msgspec.json.decode(msgspec.json.encode(schema))


def test_every_file_of_a_stored_run_validates(ft: Ft) -> None:
    """Each line of a real history, and the record of a scenario with a fault."""
    record = ft.run("migration/worker_failure", stack="sim", max_tokens=100, token=20)
    line = jsonschema.Draft202012Validator(_shipped("history.schema.json"))
    lines = (ft.folder / record.path / "history.jsonl").read_bytes().splitlines()
    assert len(lines) > 100
    for text in lines:
        line.validate(msgspec.json.decode(text))
    whole = jsonschema.Draft202012Validator(_shipped("run.schema.json"))
    run: dict[str, Any] = {"schema": 1, "verdict": "pass", "scenarios": [msgspec.to_builtins(record)]}
    whole.validate(run)
    run["scenarios"][0]["verdict"] = "perhaps"
    assert not whole.is_valid(run)
