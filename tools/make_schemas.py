"""Write the JSON schemas of the stored formats into the package: ``python tools/make_schemas.py``."""

from pathlib import Path
from typing import Any

import msgspec

from ftharness.history import json_schema
from ftharness.report import run_schema

FOLDER = Path(__file__).parents[1] / "ftharness" / "schemas"


def schemas() -> dict[str, dict[str, Any]]:
    """By file name."""
    return {"history.schema.json": json_schema(), "run.schema.json": run_schema()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, schema in schemas().items():
        text = msgspec.json.format(msgspec.json.encode(schema, order="sorted"), indent=1)
        (FOLDER / name).write_bytes(text + b"\n")
        print(FOLDER / name)
