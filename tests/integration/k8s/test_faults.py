"""A fault that hits a container, and proves it: real processes, in process ids of their own."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cluster import Cluster

from ftharness.client import completion
from ftharness.faults import Fault, freeze, interrupt, kill, kill_engine, named, terminate, thaw
from ftharness.history import (
    FaultHealed,
    FaultLanded,
    FaultMissed,
    History,
    Leak,
    Log,
    LogTruncated,
    ProcessExited,
    ProcessStarted,
)
from ftharness.k8s import K8sStack, delete_pod
from ftharness.k8s import faults as k8s_faults
from ftharness.process import Redactor
from ftharness.scenario.nemesis import Nemesis
from ftharness.stack import RunningStack, Settings, aggregated

WORKER = named("worker-1")


class Live(NamedTuple):
    stack: RunningStack
    nemesis: Nemesis
    history: History

    async def inject(self, fault: Fault) -> FaultLanded | FaultMissed:
        await self.nemesis.inject(fault)
        told = [event for event in self.history.events if isinstance(event, FaultLanded | FaultMissed)]
        return told[-1]

    async def answers(self) -> str:
        stream = await self.stack.client.send(completion(max_tokens=5))
        return (await stream.finished()).outcome

    async def started(self, name: str) -> None:
        await self.history.wait_for(
            lambda event: isinstance(event, ProcessStarted) and event.source == name, deadline_s=20, what=name
        )


Lives = Callable[..., Any]


@pytest.fixture
def lives(tmp_path: Path, stack_file: Callable[..., Path]) -> Lives:
    """The stack as the runner has it, without a scenario."""

    @asynccontextmanager
    async def run(workers: int = 1, standbys: int = 0, **fields: Any) -> AsyncIterator[Live]:
        kind, history, redactor = K8sStack(stack_file(**fields)), History(), Redactor()
        plan = kind.plan(aggregated(workers=workers, standbys=standbys), Settings(engine="vllm", folder=tmp_path))
        async with kind.owner(history, tmp_path / "run", redactor) as owner:
            stack = RunningStack(plan, history, owner, idle_s=30, seed=0, redactor=redactor)
            nemesis = Nemesis(stack, history, speed=200)
            try:
                await stack.start(deadline_s=30)
                yield Live(stack, nemesis, history)
            finally:
                await nemesis.heal()
                await stack.stop(grace_s=5)
        assert not list(history.select(Leak))

    return run


async def test_a_kill_is_seen_by_the_kubelet(lives: Lives) -> None:
    """Its exit code, and that it was restarted: the successor is another process, and serves."""
    async with lives() as live:
        landed = await live.inject(kill(WORKER))
        assert isinstance(landed, FaultLanded), landed
        assert {"exitCode": 137, "pid": 2, "wait_status": "SIGKILL"}.items() <= landed.evidence.items()
        assert "launch.py worker" in landed.evidence["command"]
        await live.started("worker-1.1")
        assert live.stack["worker-1"].exit is not None
        assert live.stack.processes["worker-1.1"].exit is None


async def test_an_engine_is_killed_below_its_handler(lives: Lives) -> None:
    """By the pid that its log names, in the container's own process ids; its pidfd tells its end."""
    async with lives() as live:
        landed = await live.inject(kill_engine(WORKER))
        assert isinstance(landed, FaultLanded), landed
        assert landed.evidence["engine_pid"] > 2


async def test_process_1_gets_no_sigkill(lives: Lives) -> None:
    """The kernel delivers none from inside, and the fault says so instead of having passed."""
    async with lives(init=False) as live:
        missed = await live.inject(kill(WORKER))
        assert isinstance(missed, FaultMissed)
        assert "it is process 1 of its container, to which the kernel delivers no SIGKILL" in missed.reason
        assert live.stack["worker-1"].exit is None


async def test_a_frozen_engine_is_in_state_t(lives: Lives) -> None:
    """And thawed when the fault is healed: it answers again."""
    async with lives() as live:
        landed = await live.inject(freeze(WORKER))
        assert isinstance(landed, FaultLanded), landed
        assert landed.evidence["state"] == "T"
        assert live.stack["worker-1"].state() == "T"
        landed = await live.inject(thaw(WORKER))
        assert isinstance(landed, FaultLanded), landed
        assert (landed.evidence["before"], landed.evidence["state"] != "T") == ("T", True)
        assert await live.answers() == "success"
        missed = await live.inject(thaw(WORKER))
        assert isinstance(missed, FaultMissed)
        assert "it was not frozen" in missed.reason


async def test_a_freeze_ends_by_itself(lives: Lives) -> None:
    """After its length; what heals it has its evidence."""
    async with lives() as live:
        await live.inject(freeze(WORKER, duration_s=0.2))
        (healed,) = live.history.select(FaultHealed)
        assert healed.evidence["signal"] == "SIGCONT"
        assert await live.answers() == "success"


@pytest.mark.parametrize("fault,name", [(terminate(WORKER), "SIGTERM"), (interrupt(WORKER), "SIGINT")])
async def test_a_signal_that_can_be_handled_is(lives: Lives, fault: Fault, name: str) -> None:
    """It passes process 1 by, and the evidence is that nobody has it pending."""
    async with lives() as live:
        landed = await live.inject(fault)
        assert isinstance(landed, FaultLanded), landed
        assert {"signal": name, "disposition": "handled"}.items() <= landed.evidence.items()
        await live.stack["worker-1"].exited(10)


async def test_a_grace_that_is_over_ends_with_a_kill(lives: Lives) -> None:
    """As declared, and as an event of its own."""
    async with lives() as live:
        stream = await live.stack.client.send(completion(max_tokens=2000))
        await live.stack.find_serving(stream)
        landed = await live.inject(terminate(WORKER, grace_s=0.3))
        assert isinstance(landed, FaultLanded), landed
        signals = [event.signal for event in live.history.events if event.kind == "process.signalled"]
        assert signals == ["SIGTERM", "SIGKILL"]
        assert (await live.stack["worker-1"].exited(5)).signal == "SIGKILL"


async def test_a_deleted_pod_is_followed_by_another(lives: Lives, cluster: Cluster) -> None:
    """By the API server's own deletion, with the uid as its condition."""
    async with lives() as live:
        pod = live.stack["worker-1"].place.pod
        landed = await live.inject(delete_pod(WORKER))
        assert isinstance(landed, FaultLanded), landed
        assert landed.evidence["pod"] == pod
        await live.started("worker-1.1")
        assert live.stack.processes["worker-1.1"].place.pod != pod
        assert pod not in cluster.names("pods")


async def test_a_kill_that_kills_nothing_is_missed(
    lives: Lives, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Planted: a script that says it sends a signal, and sends none. What was not seen to end has not landed."""
    lie = tmp_path / "lie.py"
    lie.write_text("import json; print(json.dumps({'sending': 'SIGKILL', 'pid': 2, 'disposition': '', 'command': ''}))")
    monkeypatch.setattr(k8s_faults, "_SCRIPT", lie)
    monkeypatch.setattr(k8s_faults, "_EXIT_S", 0.5)
    async with lives() as live:
        missed = await live.inject(kill(WORKER))
        assert isinstance(missed, FaultMissed)
        assert "SIGKILL was sent, but worker-1 (ft-" in missed.reason
        assert "runs after 0.5 s" in missed.reason


async def test_a_container_without_python_is_missed_with_what_it_said(
    lives: Lives, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Planted: a script that cannot run."""
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit(3)")
    monkeypatch.setattr(k8s_faults, "_SCRIPT", broken)
    async with lives() as live:
        missed = await live.inject(kill(WORKER))
        assert isinstance(missed, FaultMissed)
        assert "SIGKILL was not sent in ft-" in missed.reason
        assert "command terminated with exit code 3" in missed.reason


async def test_what_the_guard_refuses_is_a_fault_that_missed(lives: Lives, cluster: Cluster) -> None:
    """It does not end the run, and it passes nothing."""
    async with lives() as live:
        pod = cluster.objects["pods", "ftharness", live.stack["worker-1"].place.pod]
        label = pod["metadata"]["labels"].pop("ftharness/run")
        missed = await live.inject(kill(WORKER))
        assert isinstance(missed, FaultMissed)
        assert "has the label ftharness/run = None" in missed.reason
        pod["metadata"]["labels"]["ftharness/run"] = label
        assert live.stack["worker-1"].exit is None


async def test_of_two_engines_in_a_pod_one_is_killed(lives: Lives) -> None:
    """With failover a worker is two containers; the other one runs on, and the first is restarted beside it."""
    async with lives(standbys=1, gpus=2) as live:
        names = [process.name for process in live.stack.workers]
        assert names == ["worker-1", "standby-1"]
        assert len({process.place.pod for process in live.stack.workers}) == 1
        landed = await live.inject(kill(WORKER))
        assert isinstance(landed, FaultLanded), landed
        await live.started("standby-2")
        assert live.stack["standby-1"].exit is None


@pytest.mark.parametrize("gone", [False, True])
async def test_a_watch_that_ends_is_begun_anew(lives: Lives, cluster: Cluster, gone: bool) -> None:
    """Also where the server has forgotten the version that it is asked to go on from; what happened meanwhile is seen."""
    async with lives() as live:
        cluster.end_watches(gone=gone)
        landed = await live.inject(kill(WORKER))
        assert isinstance(landed, FaultLanded), landed


async def test_a_log_that_breaks_off_is_followed_on(lives: Lives, cluster: Cluster) -> None:
    """From where it was: no line is missing, and none comes twice."""
    async with lives() as live:
        before = len(list(live.history.select(Log, source="worker-1", event="ready")))
        cluster.cut_logs()
        stream = await live.stack.client.send(completion(max_tokens=20))
        assert (await live.stack.find_serving(stream)).name == "worker-1"
        assert len(list(live.history.select(Log, source="worker-1", event="ready"))) == before == 1
        assert not list(live.history.select(LogTruncated))


async def test_a_log_that_was_rotated_says_so(lives: Lives, cluster: Cluster) -> None:
    """Planted: its first bytes are gone. What may be missing is an event, not a silence."""
    async with lives() as live:
        cluster.rotated = 10
        cluster.cut_logs()
        await live.history.wait_for(
            lambda event: isinstance(event, LogTruncated) and event.source == "worker-1",
            deadline_s=10,
            what="the break",
        )


async def test_all_that_is_listened_on_is_loopback(lives: Lives) -> None:
    """The port of the frontend on this machine."""
    async with lives() as live:
        forward = live.stack.processes._forward
        assert [sock.getsockname()[0] for sock in forward._server.sockets] == ["127.0.0.1"]


async def test_its_exits_at_the_end_are_the_teardowns(lives: Lives) -> None:
    """Each container's end is in the history, behind the signal that asked for it."""
    async with lives() as live:
        pass
    exits = {event.source for event in live.history.select(ProcessExited)}
    assert exits == {"frontend", "worker-1"}
