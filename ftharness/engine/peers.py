"""The other workers of a disaggregated stack: who there is, as the frontend tells, and the connections to them.

Between two workers there is one connection for each that had to ask the other: it is dialled by the first request that
needs it. As on the plane, a connection is a lease: what was asked over it ends with it.
"""

import asyncio
from collections.abc import Callable, Container
from typing import Any

from ftharness.engine.link import Link


class Peers:
    """A worker's side of its peers.

    Args:
        name: The worker's own, as it tells those that it dials.
        receive: Gets what a peer says.
        lost: Hears that a connection is gone, and why.
    """

    def __init__(
        self, name: str, receive: Callable[[Link, dict[str, Any]], None], lost: Callable[[Link, str], None]
    ) -> None:
        self._name = name
        self._receive = receive
        self._tell_lost = lost
        self._known: dict[str, dict[str, Any]] = {}  # whose turn it is comes first
        self._links: dict[str, Link] = {}  # those that we dialled
        self._accepted: set[Link] = set()
        self._dialling: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None  # a worker that does both phases has no peers

    async def listen(self, port: int) -> int:
        """Awaits peers on 127.0.0.1.

        Returns:
            The port; any, where ``port`` is 0.

        Raises:
            OSError: It is in use.
        """
        self._server = await asyncio.get_running_loop().create_server(self._accept, "127.0.0.1", port)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    def close(self) -> None:
        """Ends every connection."""
        if self._server is not None:
            self._server.close()
        for task in self._dialling:
            task.cancel()
        for link in (*self._links.values(), *self._accepted):
            link.close()

    def announced(self, peers: list[dict[str, Any]]) -> None:
        """The frontend knows these, and no others."""
        now = {peer["worker"]: peer for peer in peers}
        order = [name for name in self._known if name in now]
        self._known = {name: now[name] for name in (*order, *(name for name in now if name not in self._known))}

    def pick(self, role: str, *, but: Container[str]) -> Link | None:
        """The connection to the peer whose turn it is, round robin; None where no peer takes a request ``but`` these."""
        for name, peer in self._known.items():
            if peer["role"] == role and not peer["draining"] and name not in but:
                self._known[name] = self._known.pop(name)
                return self.link(name)
        return None

    def link(self, name: str) -> Link | None:
        """The connection to a peer, dialled now where there is none; None where the peer is not known."""
        if name not in self._links and name in self._known:
            link = self._links[name] = Link(name, self._receive, self._lost)
            link.send(op="hello", worker=self._name)
            task = asyncio.get_running_loop().create_task(self._dial(link, self._known[name]["port"]))
            self._dialling.add(task)
            task.add_done_callback(self._dialling.discard)
        return self._links.get(name)

    @staticmethod
    async def _dial(link: Link, port: int) -> None:
        try:
            await link.dial("127.0.0.1", port)
        except OSError as error:
            link.connection_lost(error)

    def _accept(self) -> Link:
        link = Link("", self._hear, self._lost)
        self._accepted.add(link)
        return link

    def _hear(self, link: Link, message: dict[str, Any]) -> None:
        if message["op"] == "hello":
            link.name = message["worker"]
        else:
            self._receive(link, message)

    def _lost(self, link: Link, reason: str) -> None:
        self._accepted.discard(link)
        if self._links.get(link.name) is link:
            del self._links[link.name]
        self._tell_lost(link, reason)
