"""The gateway's workers: who is there, and whose turn it is."""

import asyncio
from collections import deque
from collections.abc import Collection, Iterable

from ftharness.engine.frontend_log import FrontendLog
from ftharness.engine.gateway_worker import Worker


class Workers:
    """All of them, round robin.

    Args:
        addresses: Names and base URLs.
        engine: What they run.
        log: Where their coming and going is told.
    """

    def __init__(self, addresses: Iterable[tuple[str, str]], engine: str, log: FrontendLog) -> None:
        self._turns = deque(Worker(name, url, engine, log, self._tell) for name, url in addresses)
        self._news = asyncio.Event()
        self._watching: list[asyncio.Task[None]] = []

    def watch(self) -> None:
        """Begins to ask them how they are."""
        self._watching = [asyncio.create_task(worker.watch()) for worker in self._turns]

    async def close(self) -> None:
        """Asks no more."""
        for watching in self._watching:
            watching.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)

    async def pick(self, lost: Collection[tuple[str, int]]) -> Worker | None:
        """Whose turn it is of those that are well, or None. ``lost``: who (and in which life) already lost the request.

        Where the only ones left are in doubt, their word is waited for: it comes within seconds, a refusal would be for ever.
        """
        while True:
            able = [one for one in self._turns if one.serves and (one.name, one.life) not in lost]
            for worker in able:
                if not worker.doubted:
                    self._turns.remove(worker)
                    self._turns.append(worker)
                    return worker
            if not able:
                return None
            await self._news.wait()

    def here(self) -> list[Worker]:
        """Those that answer, by name."""
        return sorted((worker for worker in self._turns if worker.here), key=lambda worker: worker.name)

    @property
    def serve(self) -> bool:
        """Whether one of them is well."""
        return any(worker.serves for worker in self._turns)

    def _tell(self) -> None:
        """Something is known of a worker: whoever waits looks again."""
        news, self._news = self._news, asyncio.Event()
        news.set()
