"""A manager of its own process: its configuration is a JSON file, its log goes to standard output, a line an event."""

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


async def main() -> int:
    config = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=ManagerConfig)
    log = Printed()
    manager = Manager(config, log=log)
    manager.registry.subscribe(Teller(manager.registry, log))
    async with manager:
        for reload in sys.argv[2:]:
            pool_id, _, reference = reload.partition("=")
            manager.reload(pool_id, reference)
        why = await manager.failed
        log.event("failed", why=why)
    return 1


try:
    sys.exit(asyncio.run(main()))
except StateError as error:
    sys.stdout.write(f"{error}\n")
    sys.exit(2)
except KeyboardInterrupt:
    sys.exit(130)
