"""The simulated engine that serves alone: a real process, over a real socket."""

import asyncio
import json
import os
import select
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from ftharness.pool import Devices, PoolConfig
from ftharness.pool.preparation import prepare
from ftharness.pool.staging import Staged


class Running:
    """The engine of a test."""

    def __init__(self, process: asyncio.subprocess.Process, http: httpx.AsyncClient) -> None:
        self.process = process
        self.http = http
        self.lines: list[str] = []

    async def line(self, word: str) -> str:
        """The next line of its log that has a word in it."""
        assert self.process.stderr is not None
        while line := (await self.process.stderr.readline()).decode():
            self.lines.append(line)
            if word in line:
                return line
        raise AssertionError(f"it ended without {word!r}: {self.lines}")

    async def ended(self) -> int:
        return await asyncio.wait_for(self.process.wait(), 20.0)


@asynccontextmanager
async def running(folder: Path, *args: str, model: str = "", serves: bool = True) -> AsyncIterator[Running]:
    """Started as a pool would."""
    config = PoolConfig(id="p", engine="sim", args=["--speed", "1000", *args])
    staged = Staged(model_id=Path(model).name, path=model)
    engine = prepare(config, staged, "p-1", devices=Devices(), state_dir=folder)
    process = await asyncio.create_subprocess_exec(
        *engine.argv, env=engine.env, cwd=folder, stderr=asyncio.subprocess.PIPE, start_new_session=True
    )
    async with httpx.AsyncClient(base_url=engine.url, trust_env=False, timeout=20.0) as http:
        one = Running(process, http)
        try:
            if serves:
                await asyncio.wait_for(one.line("serving"), 20.0)
            yield one
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            assert process.stderr is not None
            await process.stderr.read()  # to its end: nothing that it started holds the pipe


async def test_it_serves_what_a_manager_asks_for(tmp_path: Path) -> None:
    """Health, version, slots, its model; completions that are the same each time, streamed or whole; nothing else."""
    async with running(tmp_path) as engine:
        get = engine.http.get
        assert (await get("/health")).status_code == 200
        assert (await get("/version")).json() == {"version": "1.0"}
        assert (await get("/server_info")).json()["max_running_requests"] == 4
        assert [one["id"] for one in (await get("/v1/models")).json()["data"]] == ["p"]
        ask: dict[str, Any] = {"prompt": "Once", "max_tokens": 5}
        whole = (await engine.http.post("/v1/completions", json=ask)).json()
        text = whole["choices"][0]["text"]
        assert len(text.split()) == whole["usage"]["completion_tokens"] == 5
        streamed = (await engine.http.post("/v1/completions", json={**ask, "stream": True})).text
        events = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
        assert "".join(choice["text"] for one in events for choice in one["choices"]) == text
        assert streamed.endswith("data: [DONE]\n\n")
        other = (await engine.http.post("/v1/completions", json={"prompt": "Twice", "max_tokens": 5})).json()
        assert other["choices"][0]["text"] != text
        assert (await get("/nothing")).status_code == 404
        assert (await engine.http.post("/v1/completions", json={"model": "other"})).status_code == 404
        assert (await engine.http.post("/v1/completions", content=b"[")).status_code == 400


async def test_sigterm_lets_what_runs_be_finished(tmp_path: Path) -> None:
    """And ends it with 0; a stream that had begun gets all of its tokens."""
    async with running(tmp_path, "--speed", "100") as engine:
        ask = {"prompt": "Once", "max_tokens": 60, "stream": True}
        async with engine.http.stream("POST", "/v1/completions", json=ask) as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            engine.process.terminate()
            rest = [line async for line in lines if line.startswith("data: {")]
        assert sum(bool(json.loads(line[6:])["choices"]) for line in rest) == 59
        assert await engine.ended() == 0


async def test_more_requests_than_slots_wait(tmp_path: Path) -> None:
    """And a client that goes away gives its slot back."""
    async with running(tmp_path, "--speed", "20") as engine:
        long = {"prompt": "x", "max_tokens": 4000, "stream": True}
        streams = [engine.http.stream("POST", "/v1/completions", json=long) for _ in range(4)]
        answers = [await stream.__aenter__() for stream in streams]
        pieces = [answer.aiter_bytes() for answer in answers]  # kept: a generator that is dropped closes its answer
        for one in pieces:
            await anext(one)
        waiting = asyncio.create_task(engine.http.post("/v1/completions", json={"prompt": "y", "max_tokens": 1}))
        for _ in range(8):  # 0.4 s of the engine's: the one token would have come
            await anext(pieces[1])
        assert not waiting.done()
        assert (await engine.http.get("/server_info")).json()["running"] == 4
        await streams[0].__aexit__(None, None, None)
        assert (await waiting).status_code == 200
        for stream in streams[1:]:
            await stream.__aexit__(None, None, None)


@pytest.mark.parametrize(
    "args, status",
    [
        (["--exit-at-start", "3"], 3),
        (["--crash-after-s", "0.05", "--crash-code", "0"], 0),
        (["--crash-after-s", "0.05", "--crash-code", "-9"], -signal.SIGKILL),
        (["--crash-after-s", "0.05", "--crash-code", "-11"], -signal.SIGSEGV),
    ],
)
async def test_it_ends_as_it_is_told_to(tmp_path: Path, args: list[str], status: int) -> None:
    """By a status, or by a signal."""
    async with running(tmp_path, *args, serves=False) as engine:
        assert await engine.ended() == status


async def test_only_its_first_starts_fail(tmp_path: Path) -> None:
    """As many as it is told, counted in the folder that it starts in."""
    args = ["--exit-at-start", "3", "--fail-starts", "2"]
    for _ in range(2):
        async with running(tmp_path, *args, serves=False) as engine:
            assert await engine.ended() == 3
    async with running(tmp_path, *args) as engine:
        assert (await engine.http.get("/health")).status_code == 200


async def test_a_model_can_be_what_is_wrong(tmp_path: Path) -> None:
    """By a file in its folder; one that is not there ends the start."""
    model = tmp_path / "bad"
    model.mkdir()
    (model / "misbehave.json").write_text('{"health": 503}')
    async with running(tmp_path, model=str(model)) as engine:
        assert (await engine.http.get("/health")).status_code == 503
        assert (await engine.http.get("/v1/models")).json()["data"][0]["id"] == "bad"
    (model / "misbehave.json").write_text('{"exit_at_start": 7}')
    async with running(tmp_path, model=str(model), serves=False) as engine:
        assert await engine.ended() == 7
    async with running(tmp_path, model=str(tmp_path / "none"), serves=False) as engine:
        assert await engine.ended() == 1


async def test_it_misbehaves_while_it_runs(tmp_path: Path) -> None:
    """Its health, its device, its end, as a test says; what there is not is refused."""
    async with running(tmp_path, "--unhealthy") as engine:

        async def told(**fields: object) -> int:
            return (await engine.http.post("/misbehave", json=fields)).status_code

        assert (await engine.http.get("/health")).status_code == 503
        assert await told(health=200) == 200
        assert (await engine.http.get("/health")).status_code == 200
        assert await told(say_cuda_error="ecc") == 200
        await engine.line("uncorrectable ECC error")
        assert await told(hang_health=True) == 200
        with pytest.raises(httpx.ReadTimeout):
            await engine.http.get("/health", timeout=0.2)
        assert await told(nonsense=1) == 400
        assert await told(crash_after_s=0.1, crash_code=5) == 200
        assert await engine.ended() == 5


async def test_its_engine_child_is_vllms(tmp_path: Path) -> None:
    """It outlives a SIGKILL of its parent, in a session of its own; when it dies, its parent ends with 0."""
    async with running(tmp_path, "--engine-child") as engine:
        with child_of(engine) as (child, held):
            assert os.getsid(child) == child
            signal.pidfd_send_signal(held, signal.SIGKILL)
            assert await engine.ended() == 0
    async with running(tmp_path, "--engine-child") as engine:
        parent = os.pidfd_open(engine.process.pid)
        with child_of(engine) as (_, held):
            engine.process.kill()
            assert await asyncio.to_thread(select.select, [parent], [], [], 20.0) == ([parent], [], [])
            assert select.select([held], [], [], 0) == ([], [], [])  # it lives
            signal.pidfd_send_signal(held, signal.SIGKILL)
            assert await engine.ended() == -signal.SIGKILL  # which asyncio says when the pipe, too, is closed
        os.close(parent)


@contextmanager
def child_of(engine: Running) -> Iterator[tuple[int, int]]:
    """Its engine child's pid and a pidfd; it is not left behind where the test fails, as it outlives its parent."""
    child = int(engine.lines[0].split()[-1])
    held = os.pidfd_open(child)
    try:
        yield child, held
    finally:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(held, signal.SIGKILL)
        os.close(held)
