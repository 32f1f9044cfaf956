"""A manager of its own process: its configuration is a JSON file, its log goes to standard output, a line an event.

What it is asked for comes by standard input, a line each: ``lease POOL SECONDS``, ``release ID``, and ``churn POOL``, after which
it takes leases and gives them back for as long as it lives. A line of the log says what was answered, when it was.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from ftharness.pool.adoption import StateError
from ftharness.pool.config import ManagerConfig
from ftharness.pool.manager import Manager
from ftharness.pool.telling import Teller


class Printed:
    def event(self, name: str, *, pool_id: str = "", engine_id: str = "", **says: Any) -> None:
        line = json.dumps({"event": name, "pool_id": pool_id, "engine_id": engine_id, **says})
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def lease(manager: Manager, log: Printed, pool_id: str, seconds: str) -> str:
    one = manager.registry.acquire(pool_id, holder="me", ttl_s=float(seconds))
    log.event("answered", lease_id=one.id, state=one.state)
    return one.id


def release(manager: Manager, log: Printed, lease_id: str) -> None:
    log.event("answered", lease_id=lease_id, state=manager.registry.release(lease_id).state)


async def obey(manager: Manager, log: Printed) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        match line.decode().split():
            case ["lease", pool_id, seconds]:
                lease(manager, log, pool_id, seconds)
            case ["release", lease_id]:
                release(manager, log, lease_id)
            case ["churn", pool_id]:
                while True:
                    taken = [lease(manager, log, pool_id, "600") for _ in range(3)]
                    await asyncio.sleep(0)
                    for lease_id in taken:
                        release(manager, log, lease_id)


async def main() -> int:
    config = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=ManagerConfig)
    log = Printed()
    manager = Manager(config, log=log)
    manager.registry.subscribe(Teller(manager.registry, log))
    async with manager:
        for reload in sys.argv[2:]:
            pool_id, _, reference = reload.partition("=")
            manager.reload(pool_id, reference)
        asking = asyncio.ensure_future(obey(manager, log))
        why = await manager.failed
        asking.cancel()
        log.event("failed", why=why)
    return 1


try:
    sys.exit(asyncio.run(main()))
except StateError as error:
    sys.stdout.write(f"{error}\n")
    sys.exit(2)
except KeyboardInterrupt:
    sys.exit(130)
