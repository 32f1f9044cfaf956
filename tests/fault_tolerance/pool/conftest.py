"""Managers of real engines: in the test's own loop, or in a process that can be killed."""

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from ftharness import __version__
from ftharness.pool.adoption import StateFolder
from ftharness.pool.api import Api
from ftharness.pool.config import BackoffConfig, ManagerConfig, PoolConfig, ProbeConfig
from ftharness.pool.log_events import check
from ftharness.pool.log_sink import LineSink
from ftharness.pool.logs import PoolLog
from ftharness.pool.manager import Manager
from ftharness.pool.metrics import PoolMetrics
from ftharness.pool.openapi import document
from ftharness.pool.server import Server, listening, url_of
from ftharness.pool.telling import Known, Teller
from ftharness.process import Redactor, http_get
from ftharness.process.process_table import read_entry, read_table, tagged

_PROGRAM = Path(__file__).with_name("manager_program.py")
_PATIENCE_S = 20.0
#: A secret that the servers' redactors know.
HIDDEN = "hunter2-hunter2"


class Told:
    """The manager's log, as a list that can be waited on."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self._more = asyncio.Event()

    def event(self, name: str, *, pool_id: str = "", engine_id: str = "", **says: Any) -> None:
        check(name, says)
        self.lines.append({"event": name, "pool_id": pool_id, "engine_id": engine_id, "t": time.monotonic(), **says})
        self._more.set()

    def all(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == name]

    async def until(self, name: str, count: int = 1) -> dict[str, Any]:
        """The line that is the ``count``-th of that name."""
        await self.holds(lambda: len(self.all(name)) >= count, f"{count} × {name}")
        return self.all(name)[count - 1]

    async def holds(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until that is so; it is looked again when something was told, or soon."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while not condition():
                    self._more.clear()
                    try:
                        await asyncio.wait_for(self._more.wait(), 0.02)
                    except TimeoutError:
                        continue
        except TimeoutError:
            pytest.fail(f"not so within {_PATIENCE_S:g} s: {what}; told: {[line['event'] for line in self.lines]}")


def pool(**more: Any) -> PoolConfig:
    """A pool of one simulated engine, that is asked often and comes back soon."""
    wanted: dict[str, Any] = {
        "id": "p",
        "engine": "sim",
        "probe": ProbeConfig(interval_s=0.05, timeout_s=1.0, restart_after=0),
        "backoff": BackoffConfig(initial_s=0.02, max_s=0.2),
        "ready_timeout_s": 20.0,
        "stop_grace_s": 5.0,
    }
    return PoolConfig(**wanted | more)


def lives(pid: int) -> bool:
    entry = read_entry(pid)
    return entry is not None and entry.state not in "ZX"


class Kit:
    """What the tests of pools need."""

    pool = staticmethod(pool)
    lives = staticmethod(lives)

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.folder = folder
        self.programs: list[Program] = []

    def config(self, *pools: PoolConfig, **more: Any) -> ManagerConfig:
        return ManagerConfig(pools=list(pools), **{"state_dir": str(self.state), "fail_mode": "fast"} | more)

    @asynccontextmanager
    async def manager(self, *pools: PoolConfig, **more: Any) -> AsyncIterator[tuple[Manager, Told]]:
        """A manager in this loop."""
        told = Told()
        async with Manager(self.config(*pools, **more), log=told) as manager:
            yield manager, told

    def model(self, name: str, **misbehaves: Any) -> str:
        """A model's folder; its engine misbehaves so."""
        folder = self.folder / name
        folder.mkdir()
        (folder / "misbehave.json").write_text(json.dumps(misbehaves))
        return str(folder)

    def processes(self, engine_id: str = "p-1") -> list[int]:
        """All that runs in a slot, by the mark in its environment: also what nobody remembers."""
        owner = (self.state / "owner").read_text().split()[0]
        tag = f"FTHARNESS_POOL_ENGINE={owner}/{engine_id}/"
        return [entry.pid for entry in tagged(tag, read_table()) if entry.state not in "ZX"]

    def program(self, *pools: PoolConfig, **more: Any) -> "Program":
        """A manager in a process of its own."""
        path = self.folder / "config.json"
        path.write_bytes(msgspec.json.encode(self.config(*pools, **more)))
        program = Program(path)
        self.programs.append(program)
        return program

    async def ready(self, manager: Manager, told: Told, pool_id: str = "p") -> str:
        """Wait until a pool is ready; the address of its first engine."""
        await told.holds(lambda: manager.registry.pool(pool_id).ready, f"{pool_id} is ready")
        return next(iter(manager.registry.pool(pool_id).engines.values())).url

    async def ended(self, *pids: int) -> None:
        """Wait for the end of processes, for as long as the design gives what is ours."""
        async with asyncio.timeout(2):
            for pid in pids:
                while lives(pid):
                    await asyncio.sleep(0.01)

    async def misbehave(self, url: str, **fields: Any) -> None:
        """Tell an engine to; and see that it has understood."""
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.post(f"{url}/misbehave", json=fields)).status_code == 200

    async def info(self, url: str) -> dict[str, Any]:
        """What an engine says of itself: ``pid`` and ``running``."""
        _, body = await http_get(f"{url}/server_info", deadline_s=5)
        return dict(msgspec.json.decode(body))


class Program:
    """A manager that can be killed; its log is read line by line."""

    def __init__(self, config: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(_PROGRAM), str(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )
        self.lines: list[dict[str, Any]] = []

    @property
    def pid(self) -> int:
        return self.process.pid

    def until(self, name: str) -> dict[str, Any]:
        """Read on to the next line of that name."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line) if line.startswith("{") else {"event": "", "text": line}
            self.lines.append(said)
            if said["event"] == name:
                return said
        raise AssertionError(f"the manager ended without {name}: {self.lines}")

    def ask(self, *words: object) -> None:
        """Have it do something; what it answers is read like its log."""
        assert self.process.stdin is not None
        print(*words, file=self.process.stdin, flush=True)

    def lease(self, pool_id: str = "p", seconds: float = 600) -> str:
        """Take a lease of it."""
        self.ask("lease", pool_id, seconds)
        return str(self.until("answered")["lease_id"])

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait for its end."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line) if line.startswith("{") else {"event": "", "text": line})
        return self.process.wait(timeout=20)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.close()

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    """Managers and their engines, none of which outlives the test."""
    kit = Kit(tmp_path)
    yield kit
    for program in kit.programs:
        if program.process.poll() is None:
            program.kill()
        program.close()
    if (kit.state / "owner").exists():

        async def sweep() -> None:
            with StateFolder(kit.state) as state:
                for slot in state.slots():
                    if slot.is_held() and not await slot.wait_until_free(0.5):
                        await slot.evict()
                    await slot.sweep()

        asyncio.run(sweep())


class Served:
    """A manager that is served, and a client of it."""

    def __init__(self, api: Api, manager: Any, told: Any, client: httpx.AsyncClient, log: Path, url: str) -> None:
        self.api = api
        self.manager = manager
        self.told = told
        self.client = client
        self.url = url
        self._log = log

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Its log's lines of that name."""
        said = [json.loads(line) for line in self._log.read_text().splitlines()]
        return [line for line in said if line["event"] == event]

    async def post(self, path: str, status: int, **body: Any) -> dict[str, Any]:
        """The answer's body."""
        answer = await self.client.post(f"/v1/pools/{path}", json=body)
        assert answer.status_code == status, answer.text
        return dict(answer.json())

    async def get(self, path: str, status: int = 200, **params: Any) -> dict[str, Any]:
        """The answer's body."""
        answer = await self.client.get(path, params=params)
        assert answer.status_code == status, answer.text
        return dict(answer.json())

    async def until_over(self, operation: dict[str, Any]) -> dict[str, Any]:
        """How an operation ended: its answer is put off until then."""
        return await self.get(f"/v1/operations/{operation['id']}", wait_ms=20_000)


@pytest.fixture
async def served(kit: Any, tmp_path: Path) -> AsyncIterator[Any]:
    """Makes a manager of some pools, its API, and a client of that; the first pool is ready."""
    async with AsyncExitStack() as stack:

        async def serve(*pools: Any, token: str = "", level: str = "info", wait: bool = True) -> Served:
            one = await stack.enter_async_context(_served(kit, tmp_path / "log", *pools, token=token, level=level))
            if wait:
                await kit.ready(one.manager, one.told, pools[0].id)
            return one

        yield serve


@asynccontextmanager
async def _served(kit: Any, log: Path, *pools: Any, token: str, level: str) -> AsyncIterator[Served]:
    redactor = Redactor({"TOKEN": token, "API_KEY": HIDDEN})
    with log.open("wb") as file, listening("127.0.0.1", 0) as sock:
        async with kit.manager(*pools) as (manager, told):
            registry = manager.registry
            lines = PoolLog(LineSink(file.fileno()), redactor=redactor, level=level, known=Known(registry))
            metrics = PoolMetrics(registry)
            registry.subscribe(metrics.changed)
            registry.subscribe(Teller(registry, lines))
            api = Api(manager, metrics=metrics, log=lines, redactor=redactor, token=token)
            server = Server(api.application())
            answering = asyncio.ensure_future(server.serve(sockets=[sock]))
            headers = {"authorization": f"Bearer {token}"} if token else {}
            url = url_of(sock)
            hooks = {"response": [_as_told(document(__version__, [pool.id for pool in pools], guarded=bool(token)))]}
            async with httpx.AsyncClient(
                base_url=url, headers=headers, trust_env=False, timeout=30, event_hooks=hooks
            ) as client:
                yield Served(api, manager, told, client, log, url)
                api.close()
            server.stop()
            await answering


def _as_told(told: dict[str, Any]) -> Any:
    """Looks at each answer: its status is one of those that the document says, where it says anything of the call."""
    paths = {re.compile(re.sub(r"{\w+}", "[^/]+", path)): calls for path, calls in told["paths"].items()}

    async def look(answer: httpx.Response) -> None:
        for path, calls in paths.items():
            call = calls.get(answer.request.method.lower()) if path.fullmatch(answer.request.url.path) else None
            if call is not None and answer.status_code != 500:  # a planted mistake
                assert str(answer.status_code) in call["responses"], f"{answer.request.url}: {answer.status_code}"

    return look
