"""The OpenAPI document, made from the table of endpoints and the types of their bodies."""

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from ftharness.pool.auth import OPEN
from ftharness.pool.endpoints import ENDPOINTS, Endpoint, Problem, Wait

#: 3.1: its schemas are JSON Schema, which is what msgspec makes of types.
_VERSION = "3.1.0"
_REFERENCE = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"{(\w+)}")
#: What the answers that every call can give mean; a body that cannot be read is one only where there is a body.
_NO_TOKEN = "There is a token, and this call did not bring it."  # noqa: S105 - a sentence
_WHY = {
    201: "Granted.",
    202: "Begun: the header Location says where to follow it.",
    401: _NO_TOKEN,
    403: "Without a token: a page of a browser may not call.",
    404: "There is none of that name.",
    409: "Not now; the code says why.",
    413: "The body is too long.",
    415: "The body is not JSON by its Content-Type.",
    422: "A value that cannot be meant; the message says where.",
}
_BODY = {400: "The body is not JSON."} | {status: _WHY[status] for status in (413, 415)}


def document(version: str, pools: Sequence[str], *, guarded: bool) -> dict[str, Any]:
    """The document of one manager.

    Args:
        version: Of ftharness.
        pools: Their names: no others are pools'.
        guarded: Whether there is a token.
    """
    types: list[Any] = [Problem]
    for endpoint in ENDPOINTS:
        types += [kind for kind in (*endpoint.answers.values(), endpoint.takes) if kind is not None]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    by_type = dict(zip(map(repr, types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(
            endpoint, by_type, pools, guarded=guarded
        )
    return {
        "openapi": _VERSION,
        "info": {
            "title": "ftharness pool manager",
            "version": version,
            "description": "Engine pools: health, leases, drain, reload.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}] if guarded else [],
    }


def _operation(endpoint: Endpoint, schemas: dict[str, Any], pools: Sequence[str], *, guarded: bool) -> dict[str, Any]:
    refusals: dict[int, str] = {} if guarded else {403: _WHY[403]}
    if guarded and endpoint.path not in OPEN:
        refusals[401] = _WHY[401]
    if endpoint.takes is not None:
        refusals |= _BODY
    answers = dict.fromkeys(refusals, Problem) | endpoint.answers
    told: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "parameters": _parameters(endpoint, pools),
        "responses": {
            str(status): _answer(status, kind, schemas, refusals.get(status, ""))
            for status, kind in sorted(answers.items())
        },
    }
    if endpoint.path in OPEN:
        told["security"] = []
    if endpoint.takes is not None:
        told["requestBody"] = {
            "required": endpoint.body_needed,
            "content": {"application/json": {"schema": schemas[repr(endpoint.takes)]}},
        }
    return told


def _parameters(endpoint: Endpoint, pools: Sequence[str]) -> Sequence[dict[str, Any]]:
    of_name: dict[str, dict[str, Any]] = {"pool_id": {"enum": list(pools)}}
    found: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", **of_name.get(name, {"minLength": 1})},
        }
        for name in _PARAMETER.findall(endpoint.path)
    ]
    if endpoint.waits:
        schema = msgspec.json.schema(Wait) | {"default": 0}
        about = "Milliseconds to put the answer off, unless there is news before: it ended."
        found.append({"name": "wait_ms", "in": "query", "required": False, "schema": schema, "description": about})
    found.append(
        {
            "name": "X-Correlation-Id",
            "in": "header",
            "required": False,
            "schema": {"type": "string"},
            "description": "Printable ASCII, at most 128 characters; another one is replaced. The answer and the log have it.",
        }
    )
    return found


def _answer(status: int, kind: Any, schemas: dict[str, Any], why: str) -> dict[str, Any]:
    headers: dict[str, Any] = {"X-Correlation-Id": {"schema": {"type": "string"}}}
    if status in (HTTPStatus.CREATED, HTTPStatus.ACCEPTED):
        headers["Location"] = {"schema": {"type": "string"}, "required": True}
    if kind is None:
        content: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}
    else:
        content = {"application/json": {"schema": schemas[repr(kind)]}}
    return {"description": why or _WHY.get(status, "As asked."), "headers": headers, "content": content}
