"""What a cluster still has of a deployment after its deletion: read there, not remembered."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

from ftharness.history import Leak
from ftharness.k8s import names
from ftharness.k8s.api import Api, ApiError
from ftharness.k8s.guard import Guard

_KINDS = (("v1", "pods"), (names.GROUP_VERSION, "dynamocomponentdeployments"), ("v1", "services"))


async def leaks(api: Api, guard: Guard) -> AsyncIterator[Leak]:
    """Each object with the run's label that is there, and whether it is on its way out.

    A kind that may not be read is left out: with a role without it, or an operator that has none, nothing can be said of it.
    """
    for version, plural in _KINDS:
        try:
            found = await api.get(version, plural, labelSelector=guard.selector)
        except ApiError:
            continue
        for item in found["items"]:
            since = item["metadata"].get("deletionTimestamp")
            how = f"is being deleted since {since}" if since else "is not being deleted"
            yield leak(f"{plural}/{item['metadata']['name']} in namespace {api.namespace} {how}")


def leak(detail: str) -> Leak:
    """Something that is left, with the time at which it was seen."""
    seen = datetime.now(UTC).isoformat(timespec="seconds")
    return Leak(source="harness", what="cluster", detail=f"{detail} (at {seen})")
