"""Whether a manifest fits the CRD, before anything is sent: errors name the field, and what it may be."""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec

from ftharness.k8s import names
from ftharness.k8s.needs import needed
from ftharness.suggest import nearest

#: Beside this module; its ``$comment`` says which version of the CRD it was written from.
SCHEMA_FILE = "dynamographdeployment-v1alpha1.schema.json"


class ManifestError(ValueError):
    """A manifest does not fit the CRD; the message names the field, and says what it may be."""


@cache
def schema() -> dict[str, Any]:
    """The JSON schema of what we render: the part of the CRD that we use, as strict as the CRD is."""
    found: dict[str, Any] = msgspec.json.decode(files("ftharness.k8s").joinpath(SCHEMA_FILE).read_bytes())
    return found


def check_manifest(manifest: Mapping[str, Any]) -> None:
    """Check a manifest against the schema, and against what the operator's webhook refuses beside it.

    Raises:
        ManifestError: It does not fit; names each field that does not.
        NotAvailable: The extra ``k8s`` is not installed.
    """
    jsonschema = needed("jsonschema")
    validator = jsonschema.Draft202012Validator(schema())
    errors = sorted(validator.iter_errors(manifest), key=lambda error: [str(step) for step in error.absolute_path])
    wrong = [_said(error) for error in errors] or list(_refused_by_the_webhook(manifest))
    if wrong:
        raise ManifestError("the manifest does not fit the CRD: " + "; ".join(wrong))


def _said(error: Any) -> str:
    steps = [str(step) for step in error.absolute_path]
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        unknown = [key for key in error.instance if key not in known]
        return "; ".join(f"{'.'.join([*steps, key])}: there is no such field; {nearest(key, known)}" for key in unknown)
    return f"{'.'.join(steps) or 'the manifest'}: {error.message}"


def _refused_by_the_webhook(manifest: Mapping[str, Any]) -> Iterator[str]:
    """What the fields' own types allow and the operator does not: it would say so when the manifest is applied."""
    mode = manifest["metadata"].get("annotations", {}).get(names.DISCOVERY_MODE)
    for name, service in manifest["spec"]["services"].items():
        failover, memory = service.get("failover", {}), service.get("gpuMemoryService", {})
        if not failover.get("enabled"):
            continue
        where = f"spec.services.{name}.failover.enabled"
        if not memory.get("enabled"):
            yield f"{where}: needs spec.services.{name}.gpuMemoryService.enabled"
        if failover.get("mode", "intraPod") != memory.get("mode", "intraPod"):
            yield f"spec.services.{name}.failover.mode: is not that of gpuMemoryService.mode"
        if mode != "container":
            yield f'{where}: needs metadata.annotations["{names.DISCOVERY_MODE}"] = "container"'
        if manifest["spec"].get("backendFramework") != "vllm":
            yield f"{where}: exists for vllm only, not for {manifest['spec'].get('backendFramework')}"
        if not int(service.get("resources", {}).get("limits", {}).get("gpu", "0")):
            yield f"{where}: its engines share GPUs, and spec.services.{name}.resources.limits.gpu asks for none"
