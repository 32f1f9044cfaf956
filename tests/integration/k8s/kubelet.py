"""The kubelet of the tests' cluster: pods whose containers are real processes, each with process ids of its own.

It does not pull images, probe, mount volumes, give addresses (everything is on this machine's loopback), enforce resources, or
back off before a restart.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ftharness.history import History
from ftharness.process import Process, Processes

RUNC = Path(__file__).with_name("runc.py")


class Container:
    """One container of a pod; started anew, it is the same container with another id.

    Attributes:
        spec: Of the pod's spec.
        status: As the pod's status shows it.
        output: Everything that the present one said.
        process: The present one's runtime; its child is process 1.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.output = bytearray()
        self.said = asyncio.Condition()
        self.process: Process | None = None
        self.over = asyncio.Event()  # whether the present one has ended, and its status says so
        self.over.set()
        self.status: dict[str, Any] = {
            "name": spec["name"],
            "ready": False,
            "restartCount": 0,
            "image": spec["image"],
            "state": {"waiting": {"reason": "ContainerCreating"}},
            "lastState": {},
        }

    @property
    def running(self) -> bool:
        return "running" in self.status["state"]

    def init_pid(self) -> int:
        """Process 1's id outside; 0 where there is none."""
        if self.process is None:
            return 0
        with suppress(OSError, IndexError):
            pid = self.process.pid
            return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        return 0


class Kubelet:
    """Runs containers below a guardian of its own, so that nothing outlives the tests.

    Args:
        folder: For the guardian's logs.
        changed: Told whenever a pod's status has.
        clock: The time as Kubernetes writes it.
    """

    def __init__(self, folder: Path, changed: Callable[[dict[str, Any]], None], clock: Callable[[], str]) -> None:
        self.processes = Processes(History(), folder)
        self.containers: dict[tuple[str, str], Container] = {}  # by the pod's uid and the container's name
        self.failures: list[BaseException | None] = []  # of what it does by itself
        self._changed = changed
        self._clock = clock
        self._serial = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def runs(self, pod: dict[str, Any]) -> None:
        """Run a pod's containers, and restart them, until it is deleted."""
        for spec in pod["spec"]["containers"]:
            container = Container(spec)
            self.containers[pod["metadata"]["uid"], spec["name"]] = container
            self._spawn(self._keep_running(pod, container))
        self._report(pod)

    def of(self, pod: dict[str, Any]) -> list[Container]:
        return [one for (uid, _), one in self.containers.items() if uid == pod["metadata"]["uid"]]

    async def ends(self, pod: dict[str, Any], grace_s: float) -> None:
        """SIGTERM to each container's process 1, SIGKILL after the grace; returns when all have ended."""
        for container in self.of(pod):
            self.signal(container, signal.SIGTERM)
        exits = [asyncio.ensure_future(one.over.wait()) for one in self.of(pod)]
        if not exits:
            return
        _, late = await asyncio.wait(exits, timeout=grace_s)
        if late:
            for container in self.of(pod):
                self.signal(container, signal.SIGKILL)
            await asyncio.wait(late)

    def signal(self, container: Container, number: signal.Signals) -> None:
        """From outside, as a runtime does: process 1 gets even SIGKILL."""
        if pid := container.init_pid():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    async def execute(
        self, container: Container, command: list[str], sink: Callable[[bytes, int], None]
    ) -> tuple[int | None, str | None]:
        """A command among the container's processes; its exit code, or the signal that ended it."""
        self._serial += 1
        argv = ["nsenter", "-t", str(container.init_pid()), "-p", "-m", "--", *command]
        process = await self.processes.start(
            f"exec-{self._serial}", argv, env=self._environment(container, ""), sink=sink
        )
        ended = await process.exited()
        await process.alone
        return ended.returncode, ended.signal

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception():
            self.failures.append(task.exception())

    async def _keep_running(self, pod: dict[str, Any], container: Container) -> None:
        while "deletionTimestamp" not in pod["metadata"]:
            await self._run(pod, container)
            if "deletionTimestamp" not in pod["metadata"]:
                container.status["restartCount"] += 1
                container.status["lastState"] = container.status["state"]

    async def _run(self, pod: dict[str, Any], container: Container) -> None:
        self._serial += 1
        container.over.clear()
        instance = f"tests://{pod['metadata']['name']}/{container.spec['name']}/{self._serial}"
        container.output = bytearray()
        output = container.output

        def sink(data: bytes, at: int) -> None:
            output.extend(data)
            self._spawn(_tell(container))

        argv = [sys.executable, "-I", str(RUNC), *container.spec["command"], *container.spec.get("args", ())]
        container.process = await self.processes.start(
            f"{pod['metadata']['name']}-{container.spec['name']}-{self._serial}",
            argv,
            env=self._environment(container, pod["metadata"]["name"]),
            sink=sink,
        )
        container.status |= {
            "containerID": instance,
            "ready": True,
            "state": {"running": {"startedAt": self._clock()}},
        }
        self._report(pod)
        ended = await container.process.exited()
        await container.process.alone
        container.process = None
        code = ended.returncode if ended.returncode is not None else 128 + signal.Signals[str(ended.signal)]
        container.status["ready"] = False
        container.status["state"] = {
            "terminated": {
                "containerID": instance,
                "exitCode": code,
                "reason": "Completed" if code == 0 else "Error",
                "finishedAt": self._clock(),
            }
        }
        await _tell(container)
        self._report(pod)
        container.over.set()

    def _environment(self, container: Container, hostname: str) -> dict[str, str]:
        given = {one["name"]: one.get("value", "") for one in container.spec.get("env", ())}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "HOSTNAME": hostname, "PYTHONUNBUFFERED": "1", **given}

    def _report(self, pod: dict[str, Any]) -> None:
        statuses = [one.status for one in self.of(pod)]
        ready = all(one["ready"] for one in statuses)
        running = any("running" in one["state"] for one in statuses)
        pod["status"] = {
            "phase": "Running" if running else "Pending",
            "conditions": [
                {"type": "Ready", "status": "True"}
                if ready
                else {"type": "Ready", "status": "False", "message": "containers with unready status"}
            ],
            "containerStatuses": statuses,
        }
        self._changed(pod)


async def _tell(container: Container) -> None:
    async with container.said:
        container.said.notify_all()
