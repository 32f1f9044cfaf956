"""Which container is which process of the stack: seats that are taken as pods come, and left as containers end."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ftharness.k8s import names
from ftharness.k8s.container import ContainerProcess, Place, Sink, ended_by
from ftharness.k8s.render import Slot
from ftharness.process import Ended

#: What a container that does not start waits for, where waiting longer does not help.
_HOPELESS = {
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
}


class Seat:
    """A slot's container, and those that came after it.

    Attributes:
        slot: Whose.
        pod: The uid of the pod that has it; "" for none yet.
        now: What runs there.
        successors: How many came after the first.
        taken: Whether it is to be a process of the stack by now.
        sink: Takes the first one's output.
    """

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.pod = ""
        self.now: ContainerProcess | None = None
        self.successors = 0
        self.taken = False
        self.sink: Sink | None = None


#: Makes a process of what runs: its seat, its place, its command, and when that was read (CLOCK_MONOTONIC, ns).
Begins = Callable[[Seat, Place, Sequence[str], int], ContainerProcess]


class Seats:
    """The seats of a deployment, and the pods that are there.

    Args:
        slots: One seat each.
        begins: Called when a container runs in a seat.

    Attributes:
        pods: Those that are there, by uid.
        changed: Set whenever something has.
        closed: Whether no more is to begin.
    """

    def __init__(self, slots: Sequence[Slot], begins: Begins) -> None:
        self.pods: dict[str, Mapping[str, Any]] = {}
        self.changed = asyncio.Event()
        self.closed = False
        self._seats = [Seat(slot) for slot in slots]
        self._begins = begins

    def take(self, name: str, sink: Sink | None) -> Seat:
        """The seat of that slot, which from now on becomes a process as soon as its container runs."""
        seat = next(one for one in self._seats if one.slot.name == name)
        seat.taken, seat.sink = True, sink
        self._look(time.monotonic_ns())
        return seat

    def seen(self, pod: Mapping[str, Any], at: int, gone: bool) -> None:  # noqa: FBT001 - as the watch calls it
        """A pod as it is now, read at ``at`` (CLOCK_MONOTONIC, ns)."""
        uid = pod["metadata"]["uid"]
        if gone:
            self.pods.pop(uid, None)
        else:
            self.pods[uid] = pod
        for seat in self._seats:
            if seat.pod == uid and seat.now is not None:
                _update(seat, seat.now, pod, at, gone=gone)
        self._look(at)
        self.changed.set()

    def hopeless(self, seat: Seat) -> str:
        """Why a container of the seat's service will not start; "" where it may."""
        for pod in self._of(seat.slot.service):
            for status in pod.get("status", {}).get("containerStatuses", ()):
                waiting = status.get("state", {}).get("waiting", {})
                if waiting.get("reason") in _HOPELESS:
                    said = f"{pod['metadata']['name']}: {waiting['reason']}: {waiting.get('message', '')}"
                    return said.rstrip(": ")
        return ""

    def pods_of(self, seat: Seat) -> str:
        """The pods of the seat's service, and what they wait for; "" where there is none."""
        said = []
        for pod in self._of(seat.slot.service):
            status = pod.get("status", {})
            why = [one.get("message", "") for one in status.get("conditions", ()) if one.get("status") == "False"]
            states = [one.get("state", {}) for one in status.get("containerStatuses", ())]
            what = "; ".join(filter(None, [*why, *(state.get("waiting", {}).get("reason", "") for state in states)]))
            said.append(f"{pod['metadata']['name']} is {status.get('phase')}{f' ({what})' if what else ''}")
        return ", ".join(said)

    def _of(self, service: str) -> list[Mapping[str, Any]]:
        """In the order in which they were made."""
        found = [one for one in self.pods.values() if one["metadata"].get("labels", {}).get(names.COMPONENT) == service]
        return sorted(found, key=lambda pod: (pod["metadata"].get("creationTimestamp", ""), pod["metadata"]["name"]))

    def _look(self, at: int) -> None:
        """Give each seat that has no container the one that runs in its place."""
        for seat in self._seats:
            if not seat.taken or seat.now is not None or self.closed:
                continue
            if seat.pod not in self.pods:
                seat.pod = self._pod_for(seat)
            pod = self.pods.get(seat.pod)
            status = _status(pod, seat.slot.container) if pod is not None else {}
            if pod is None or "running" not in status.get("state", {}):
                continue
            place = Place(pod["metadata"]["name"], seat.pod, seat.slot.container, status["containerID"])
            spec: Mapping[str, Any] = next(
                (one for one in pod["spec"]["containers"] if one["name"] == place.container), {}
            )
            seat.now = self._begins(seat, place, [*spec.get("command", ()), *spec.get("args", ())], at)
            if status.get("ready"):
                seat.now.is_ready()

    def _pod_for(self, seat: Seat) -> str:
        """The uid of the first pod of the service that no seat has, and that is not on its way out; "" for none."""
        same = [one for one in self._seats if one.slot.service == seat.slot.service]
        mates = (one.pod for one in same if one.slot.replica == seat.slot.replica and one.pod in self.pods)
        if mate := next(mates, ""):
            return mate  # the two engines of a worker are in one pod
        taken = {one.pod for one in same}
        for pod in self._of(seat.slot.service):
            if pod["metadata"]["uid"] not in taken and "deletionTimestamp" not in pod["metadata"]:
                return str(pod["metadata"]["uid"])
        return ""


def _update(seat: Seat, process: ContainerProcess, pod: Mapping[str, Any], at: int, *, gone: bool) -> None:
    """What became of the container that a seat has."""
    status, own = _status(pod, process.place.container), process.place.instance
    state, last = status.get("state", {}), status.get("lastState", {})
    for terminated in (state.get("terminated"), last.get("terminated")):
        if terminated and terminated.get("containerID", own) == own:
            told = {key: terminated[key] for key in ("exitCode", "reason", "finishedAt") if key in terminated}
            process.has_ended(ended_by(terminated), at, {**told, "restartCount": int(status.get("restartCount", 0))})
            seat.now = None
            return
    if gone:
        process.has_ended(Ended(None, None), at, {"ended": "its pod is gone"})
        seat.now, seat.pod = None, ""
    elif status.get("containerID", own) != own:
        process.has_ended(Ended(None, None), at, {"replaced_by": status["containerID"]})
        seat.now = None
    elif status.get("ready"):
        process.is_ready()


def _status(pod: Mapping[str, Any], container: str) -> Mapping[str, Any]:
    statuses = pod.get("status", {}).get("containerStatuses", ())
    return next((one for one in statuses if one["name"] == container), {})
