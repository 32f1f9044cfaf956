"""The JSON schema of ``run.json``."""

from typing import Any

import msgspec

from ftharness.report.run import RunRecord


def run_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of this version's ``run.json``; a field that is not in it is a mistake of the writer's."""
    (schema,), definitions = msgspec.json.schema_components([RunRecord], ref_template="#/$defs/{name}")
    for definition in definitions.values():
        if "properties" in definition:
            definition["additionalProperties"] = False
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "$defs": definitions}
