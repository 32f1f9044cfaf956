"""The pods of a deployment as they change: listed once, then told by the API server."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ftharness.k8s.api import GONE, Api, ApiError

#: Gets a pod, CLOCK_MONOTONIC (ns) of the read, and whether it is gone.
Seen = Callable[[Mapping[str, Any], int, bool], None]

_AGAIN_S = 0.5
_TRIES = 20


class PodWatch:
    """Watches the pods that a selector finds, until it is cancelled.

    Args:
        api: Of their namespace.
        selector: Their labels.
        seen: Told of each pod, at first and whenever it changes.
    """

    def __init__(self, api: Api, selector: str, seen: Seen) -> None:
        self._api = api
        self._selector = selector
        self._seen = seen
        self._known: dict[str, Mapping[str, Any]] = {}  # by uid

    async def run(self) -> None:
        """List and watch; a watch that ends, as all do after some minutes, is begun anew.

        Raises:
            ApiError: The API server does not answer, or refuses, for 10 s.
        """
        failures = 0
        while True:
            try:
                version = await self.look()
                failures = 0
                await self._watch(version)
            except ApiError as error:
                failures += 1
                if failures == _TRIES or error.status in (401, 403):
                    raise
                await asyncio.sleep(_AGAIN_S)  # it is not there: nothing will tell when it is again

    async def look(self) -> str:
        """Tell of each pod as it is now; returns the version of that.

        Raises:
            ApiError: The API server refused, or did not answer.
        """
        found = await self._api.get("v1", "pods", labelSelector=self._selector)
        at = time.monotonic_ns()
        here = {pod["metadata"]["uid"] for pod in found["items"]}
        for uid in [uid for uid in self._known if uid not in here]:  # gone while nobody watched
            self._told(self._known[uid], at, gone=True)
        for pod in found["items"]:
            self._told(pod, at, gone=False)
        return str(found["metadata"]["resourceVersion"])

    async def _watch(self, version: str) -> None:
        options = {"labelSelector": self._selector, "resourceVersion": version, "allowWatchBookmarks": "true"}
        async with self._api.stream("v1", "pods", watch="true", **options) as response:
            async for line in response.aiter_lines():
                at = time.monotonic_ns()
                event = msgspec.json.decode(line)
                if event["type"] == "BOOKMARK":
                    continue
                if event["type"] == "ERROR":
                    if event["object"].get("code") == GONE:  # what we knew is too old: list again
                        return
                    raise ApiError(f"watch of pods: {event['object'].get('message')}", event["object"].get("code"))
                self._told(event["object"], at, gone=event["type"] == "DELETED")

    def _told(self, pod: Mapping[str, Any], at: int, *, gone: bool) -> None:
        uid = pod["metadata"]["uid"]
        if gone:
            self._known.pop(uid, None)
        else:
            self._known[uid] = pod
        self._seen(pod, at, gone)
