"""The simulated stack's processes on their own: who belongs together, who stays, and how each ends."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from ftharness.client import Client, completion
from ftharness.engine.tokens import encode, generate
from ftharness.faults import frontend, serving, terminate
from ftharness.history import History, RequestFinished
from ftharness.process import Process, Processes, http_get
from ftharness.pytest_plugin import Ft
from ftharness.scenario import exits_as, fails_with, migrated, never_logged, succeeds, tokens_exact
from ftharness.stack import aggregated
from ftharness.stack.sim import LAUNCHER, count_tokens

DEADLINE_S = 30.0


class House:
    """Frontends and workers of the test's own, and what they say."""

    def __init__(self, processes: Processes, history: History) -> None:
        self.processes = processes
        self.history = history
        self._said: dict[str, str] = {}
        self._more = asyncio.Condition()
        self._telling: set[asyncio.Task[None]] = set()

    def _sink(self, name: str) -> Callable[[bytes, int], None]:
        def sink(data: bytes, at: int) -> None:
            self._said[name] = self._said.get(name, "") + data.decode()
            task = asyncio.get_running_loop().create_task(self._tell())
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

        return sink

    async def _tell(self) -> None:
        async with self._more:
            self._more.notify_all()

    async def says(self, process: Process, text: str) -> str:
        """The line in which the process says so."""

        def line() -> str:
            return next((one for one in self._said.get(process.name, "").splitlines() if text in one), "")

        async with asyncio.timeout(DEADLINE_S), self._more:
            await self._more.wait_for(line)
        return line()

    async def frontend(self, name: str = "frontend", *, plane: int = 0, model: str = "sim") -> tuple[Process, int, int]:
        """A frontend, its HTTP port and its plane's."""
        argv = [sys.executable, "-m", "ftharness.engine.frontend", "--model", model, "--plane-port", str(plane)]
        process = await self.processes.start(name, argv, sink=self._sink(name))
        ports = [await self.says(process, words) for words in ("Starting HTTP(S) service", "request plane awaits")]
        http, dial = (int(port.rpartition(":")[2].rstrip('"')) for port in ports)
        return process, http, dial

    async def worker(self, plane: int, *more: str, name: str = "worker") -> Process:
        """A worker that dials that plane."""
        argv = [sys.executable, "-I", "-S", "-u", str(LAUNCHER), "worker", "--name", name]
        argv += ["--plane", f"127.0.0.1:{plane}", *more]
        return await self.processes.start(name, argv, sink=self._sink(name))

    async def page(self, worker: Process, path: str) -> tuple[int, str]:
        """What its status server answers."""
        port = (await self.says(worker, "Starting status server on")).rpartition(":")[2]
        status, body = await http_get(f"http://127.0.0.1:{port}{path}", deadline_s=DEADLINE_S)
        return status, body.decode()

    async def ask(self, port: int, **fields: Any) -> tuple[RequestFinished, str]:
        """A request, and its answer."""
        client = Client(self.history, f"http://127.0.0.1:{port}", "sim", count=count_tokens, idle_s=DEADLINE_S)
        stream = await client.send(completion("Once", **fields))
        end = await stream.finished()
        await client.close()
        return end, stream.text


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Empty at first; nothing is left of it afterwards."""
    history = History()
    async with Processes(history, tmp_path) as processes:
        yield House(processes, history)


async def test_a_worker_of_another_model_is_turned_away(house: House) -> None:
    """Both sides say why; the worker ends with 1, and nobody is asked to serve."""
    front, http, plane = await house.frontend()
    worker = await house.worker(plane, "--model", "other")
    assert (await worker.exited(DEADLINE_S)).returncode == 1
    assert "it serves other, this frontend sim" in await house.says(worker, "refuses this worker")
    assert "worker refused worker=worker" in await house.says(front, "it serves other")
    end, _ = await house.ask(http)
    assert (end.outcome, end.status) == ("error", 503)


async def test_a_worker_comes_back_to_a_frontend_that_does(house: House) -> None:
    """The frontend is killed, and another one takes its port: the worker registers again, and serves exactly."""
    front, http, plane = await house.frontend()
    worker = await house.worker(plane, "--plane-deadline-s", "30")
    await house.says(front, "worker joined")
    front.signal(signal.SIGKILL, reason="fault")
    await house.says(worker, "Connection to the frontend lost")
    again, http, _ = await house.frontend("again", plane=plane)
    await house.says(again, "worker joined")
    end, text = await house.ask(http, max_tokens=20)
    assert end.outcome == "success"
    assert count_tokens(text) == 20
    assert worker.exit is None


async def test_a_worker_whose_frontend_stays_away_ends(house: House) -> None:
    """After its deadline, with 1, and says whom it missed; its engine goes with it."""
    front, _, plane = await house.frontend()
    worker = await house.worker(plane, "--plane-deadline-s", "0.3")
    await house.says(front, "worker joined")
    front.signal(signal.SIGKILL, reason="fault")
    assert (await worker.exited(DEADLINE_S)).returncode == 1
    assert f"no frontend at 127.0.0.1:{plane}" in await house.says(worker, "no frontend at")
    await asyncio.wait_for(worker.alone, DEADLINE_S)


async def test_a_worker_that_is_told_to_end_before_it_is_registered_ends(house: House) -> None:
    """While it still dials."""
    worker = await house.worker(1, "--plane-deadline-s", "600")  # nobody listens on port 1
    await house.says(worker, "Starting status server on")
    assert json.loads((await house.page(worker, "/health"))[1])["status"] == "starting"
    worker.signal(signal.SIGTERM, reason="fault")
    assert (await worker.exited(DEADLINE_S)).returncode == 0


@pytest.mark.parametrize("what", ["worker", "frontend"])
async def test_a_port_that_is_taken_ends_it_with_a_reason(house: House, what: str) -> None:
    """With 1, and what could not be bound."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        if what == "worker":
            process, says = (
                await house.worker(1, "--status-port", str(port)),
                f"cannot serve status on 127.0.0.1:{port}",
            )
        else:
            argv = [sys.executable, "-m", "ftharness.engine.frontend", "--port", str(port)]
            process = await house.processes.start("frontend", argv, sink=house._sink("frontend"))
            says = "cannot listen: "
        assert (await process.exited(DEADLINE_S)).returncode == 1
        assert "already in use" in await house.says(process, says)
        await asyncio.wait_for(process.alone, DEADLINE_S)


async def test_a_workers_status_tells_how_it_is(house: House) -> None:
    """Ready, its metrics, nothing else; and where its engine is frozen it says so in time, instead of waiting for it."""
    front, http, plane = await house.frontend()
    worker = await house.worker(plane, "--slots", "3")
    await house.says(front, "worker joined")
    await house.says(worker, "is ready")
    status, body = await house.page(worker, "/health")
    assert (status, json.loads(body)) == (
        200,
        {"status": "ready", "worker": "worker", "role": "aggregated", "running": 0},
    )
    await house.ask(http, max_tokens=5)
    status, body = await house.page(worker, "/metrics?all=1")
    assert status == 200
    for sample in ("ftsim_slots_total{", "ftsim_generated_tokens_total{", "dynamo_component_requests_total{"):
        (line,) = [one for one in body.splitlines() if one.startswith(sample)]
        assert line.rpartition(" ")[2] == {"ftsim_slots": "3", "ftsim_gener": "5", "dynamo_comp": "1"}[sample[:11]]
    assert (await house.page(worker, "/nothing"))[0] == 404
    (engine,) = worker.descendants()
    os.kill(engine.pid, signal.SIGSTOP)
    status, body = await house.page(worker, "/metrics")
    assert (status, body) == (503, f"the engine child {engine.pid} did not answer within 2.0 s\n")
    os.kill(engine.pid, signal.SIGCONT)
    assert (await house.page(worker, "/metrics"))[0] == 200


async def test_a_frozen_engine_does_not_keep_its_worker_from_ending(house: House) -> None:
    """It does not see that its input ends: after its grace it is killed, and nothing is left."""
    front, _, plane = await house.frontend()
    worker = await house.worker(plane)
    await house.says(front, "worker joined")
    (engine,) = worker.descendants()
    os.kill(engine.pid, signal.SIGSTOP)
    worker.signal(signal.SIGTERM, reason="fault")
    assert (await worker.exited(DEADLINE_S)).returncode == 0
    await asyncio.wait_for(worker.alone, DEADLINE_S)


# Told twice.


def test_a_worker_that_is_told_twice_does_not_drain(ft: Ft) -> None:
    """The second SIGTERM ends it now; what it had moves."""
    ft.launch(aggregated(workers=2))
    stream = ft.client.complete(max_tokens=300).wait()
    stream.token(20).wait()
    worker = ft.stack.serving(stream)
    for grace_s in (0.05, 20):  # after the second one it has ended
        ft.inject(terminate(worker, grace_s=grace_s, then="nothing")).wait()
    assert stream.finished().wait(20).outcome == "success"
    ft._portal.call(worker.exited(DEADLINE_S))
    ft.expect(migrated(stream), tokens_exact(stream), succeeds(stream), exits_as(0, source=worker.name))


def test_a_frontend_that_is_told_twice_does_not_wait(ft: Ft) -> None:
    """The second SIGTERM breaks off what still runs, which is no worker's loss, and it ends in order."""
    ft.launch(aggregated(workers=1))
    stream = ft.client.complete(max_tokens=100_000).wait()
    stream.token(20).wait()
    for grace_s in (0.05, 20):  # after the second one it has ended
        ft.inject(terminate(frontend, grace_s=grace_s, then="nothing")).wait()
    assert stream.finished().wait(20).outcome == "error"
    ft._portal.call(ft.stack.frontend.exited(DEADLINE_S))
    ft.expect(fails_with("broken", stream), exits_as(0, source="frontend"), never_logged("migration_started"))


def test_a_drain_that_is_too_short_leaves_the_rest_to_another(ft: Ft) -> None:
    """The worker ends when its own drain time is over, not when the harness's grace is."""
    ft.launch(aggregated(workers=2, drain_s=0.2))
    stream = ft.client.complete(max_tokens=300).wait()
    stream.token(20).wait()
    worker = ft.stack.serving(stream)
    ft.inject(terminate(serving, grace_s=20)).wait()
    assert stream.finished().wait(20).outcome == "success"
    ft.expect(migrated(stream), tokens_exact(stream), exits_as(0, source=worker.name))


async def test_requests_under_one_id_are_told_apart(house: House) -> None:
    """A second one that brings an id that is in use gets an ending; one that is not sound gets an id of the frontend's own."""
    front, http, plane = await house.frontend()
    await house.worker(plane, "--speed", "100")
    await house.says(front, "worker joined")
    body = json.dumps({"model": "sim", "prompt": "Once", "max_tokens": 60, "stream": True}).encode()

    async def ask(request_id: str) -> tuple[str, str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", http)
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Request-Id: {request_id}\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = (await asyncio.wait_for(reader.read(), DEADLINE_S)).decode()
        writer.close()
        said = next(line for line in answer.splitlines() if line.lower().startswith("x-request-id:"))
        events = [line for line in answer.splitlines() if line.startswith("data: {")]
        return said.partition(": ")[2], "".join(json.loads(line[6:])["choices"][0]["text"] for line in events)

    answers = await asyncio.gather(ask("mine"), ask("mine"), ask("two words"))
    ids = [one for one, _ in answers]
    assert sorted(one[:5] for one in ids if one.startswith("mine")) == ["mine", "mine."]
    assert " " not in ids[2]
    assert len(set(ids)) == 3
    assert len({text for _, text in answers}) == 1
    assert count_tokens(answers[0][1]) == len(generate(0, encode("Once"), 60)) == 60


async def test_a_server_that_accepts_nobody_is_a_hang() -> None:
    """As a frozen one whose queue is full: the request ends when nothing came for its idle time."""
    with socket.socket() as deaf, socket.socket() as first, socket.socket() as second:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for filler in (first, second):
            filler.setblocking(False)  # noqa: FBT003 - the standard library's own
            filler.connect_ex(deaf.getsockname())
        client = Client(History(), f"http://127.0.0.1:{deaf.getsockname()[1]}", "m", idle_s=0.3)
        async with asyncio.timeout(DEADLINE_S):
            stream = await client.complete()
            end = await stream.finished()
        assert (end.outcome, end.error) == ("hang", "no connection within 0.3 s")
        await client.close()


async def test_a_worker_that_drains_refuses_what_still_comes(house: House) -> None:
    """A request that was sent to it before its frontend knew; what it has is finished, and then it ends."""
    lines: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    dialled: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

    async def plane(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dialled.put_nowait(writer)
        while line := await reader.readline():
            lines.put_nowait(json.loads(line))

    async def said(op: str) -> dict[str, Any]:
        while (message := await lines.get())["op"] != op:
            pass
        return message

    def ask(key: str) -> bytes:
        request = {"op": "generate", "key": key, "id": key, "token_ids": [1], "max_tokens": 40, "seed": 0, "attempt": 0}
        return json.dumps(request).encode() + b"\n"

    server = await asyncio.start_server(plane, "127.0.0.1", 0)
    worker = await house.worker(server.sockets[0].getsockname()[1])
    async with asyncio.timeout(DEADLINE_S):
        frontend_end = await dialled.get()
        await said("hello")
        frontend_end.write(b'{"op":"welcome"}\n' + ask("first"))
        assert (await said("accepted"))["key"] == "first"
        worker.signal(signal.SIGTERM, reason="fault")
        await said("draining")
        frontend_end.write(ask("second"))
        assert await said("refused") == {"op": "refused", "key": "second", "reason": "draining"}
        assert (await worker.exited(DEADLINE_S)).returncode == 0
    assert "Finished Request ID: first" in await house.says(worker, "Finished")
    frontend_end.close()
    server.close()
