"""A worker's part in a request, and what it does when something happens to it: here the whole of one.

:mod:`part_prefill` and :mod:`part_decode` have the halves.

Whoever asks for a part speaks the same language, the frontend on the plane and a worker on a connection between two:

    generate {key id token_ids max_tokens seed attempt [kv]}    the answer: by a decode worker, from the KV that ``kv`` holds
    prefill  {key id token_ids seed attempt}                    the KV, to be held
    cancel   {key kill}                                         with ``kill`` its client is gone, else it had all it wanted

and is answered ``accepted``, ``refused`` or ``lost`` (with the reason), ``prefilled``, and ``tokens``, whose last entry has a
finish reason. Between a decode and whoever holds its KV there are beside that:

    pull {key}    send it            kv {key state}    here it is            over {key aborted}    the decode has ended: let it go

A ``key`` is one attempt at a request: the frontend makes it, and it is the same on each connection and in each engine. So
what an earlier attempt left somewhere is never taken for a later one's.

A worker that has not taken the other half may be one that just went: the next one is asked. Beyond that nothing is tried
again in here. A part whose other half is lost is lost, and says so to whoever asked; at the end of that stands the frontend,
whose rules of migration are the only ones.
"""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from ftharness.engine.dialects import HandlerLog
from ftharness.engine.engine_child import EngineChild
from ftharness.engine.link import Link, Party
from ftharness.engine.peers import Peers
from ftharness.engine.status import Counters

Message = dict[str, Any]


class Bench(NamedTuple):
    """What the parts on one worker share.

    Attributes:
        name: The worker's.
        parts: Those that have not ended, by their keys.
        ended: Told of each that has, and whether that was in order.
        bug: A planted bug's name, or nothing.
    """

    name: str
    parts: "dict[str, Part]"
    engine: EngineChild
    log: HandlerLog
    counters: Counters
    peers: Peers
    ended: "Callable[[Part, bool], None]"
    bug: str


class Part:
    """The whole of a request: prefill and decode in one engine.

    Attributes:
        key: The attempt's.
        id: The request's own, for the log.
        asker: Who asked for it, and gets the answer.
        resumed: Another worker had the request before.
        relays: Whether a peer's tokens are passed on to the asker.
    """

    relays = False

    def __init__(self, bench: Bench, asker: Party, message: Message) -> None:
        self.bench = bench
        self.key: str = message["key"]
        self.id: str = message["id"]
        self.asker = asker
        self.resumed: bool = message["attempt"] > 0
        self._message = message
        self._stopped = False  # its client had all it wanted: its end is no cancellation
        self._started = asyncio.get_running_loop().time()

    def begin(self) -> None:
        """Gives it to the engine."""
        self._accept()
        m = self._message
        self.bench.engine.submit(self.key, m["token_ids"], m["max_tokens"], m["seed"], resumed=self.resumed)

    def on_phase(self, phase: str) -> None:
        """The engine has moved it."""
        self.bench.log.phase(self.id, phase)

    def on_kv(self, state: int) -> None:
        """The engine has sent the KV that it holds."""

    def on_end(self, reason: str) -> None:
        """The engine is done with it; the asker knows."""
        self._close(aborted=reason == "abort")

    def on_remote_end(self, reason: str) -> None:
        """A peer is done with the other half."""

    def on_message(self, link: Link, message: Message) -> None:
        """Whoever asked, or the other half's worker, says something about it."""
        del link
        if message["op"] == "cancel":
            self.cancel(kill=message["kill"])

    def on_lost(self, link: Party, reason: str) -> None:
        """A connection is gone: perhaps one that it needed."""
        del reason
        if link is self.asker:  # nobody is left to read it
            self.cancel(kill=True)

    def cancel(self, *, kill: bool) -> None:
        """Ends it."""
        self._stopped = not kill
        self.bench.engine.abort(self.key)

    def _accept(self) -> None:
        self.asker.send(op="accepted", key=self.key)
        self.bench.log.received(self.id)
        self.bench.counters.received += 1
        self.bench.parts[self.key] = self

    def _close(self, *, aborted: bool, remote: bool = False) -> None:
        """It has ended: in order, or given up, here or in the other half's worker."""
        bench = self.bench
        del bench.parts[self.key]
        cancelled = aborted and not self._stopped
        if cancelled:
            bench.counters.cancelled += 2 if bench.bug == "counted-twice" else 1
            remote = remote != (bench.bug == "wrong-abort")
            (bench.log.remote_aborted if remote else bench.log.aborted)(self.id)
        else:
            bench.counters.finished += 1
            bench.counters.seconds += asyncio.get_running_loop().time() - self._started
            bench.log.finished(self.id)
        bench.ended(self, not aborted)

    def _drop(self) -> None:
        """It cannot go on, though nobody gave it up."""
        del self.bench.parts[self.key]
        self.bench.ended(self, False)  # noqa: FBT003  a callback's


class OtherHalf:
    """The peer that does the other half of a request.

    Attributes:
        link: The connection to it; None until somebody is asked.
        taken: Whether it has taken it.
    """

    def __init__(self, part: Part, role: str) -> None:
        self.link: Party | None = None
        self.taken = False
        self._part = part
        self._role = role
        self._asked: set[str] = set()

    def ask(self, message: Message) -> bool:
        """Asks the peer whose turn it is, of those that were not asked; whether there was one."""
        self.link = self._part.bench.peers.pick(self._role, but=self._asked)
        if self.link is None:
            return False
        self._asked.add(self.link.name)
        self.link.send(**message)
        return True

    def tell(self, op: str, **fields: bool) -> None:
        """Something about the request, to the one that was asked."""
        assert self.link is not None, "it has begun"
        given_up = op == "cancel" or fields.get("aborted", False)
        if not (given_up and self._part.bench.bug == "untold-remote"):
            self.link.send(op=op, key=self._part.key, **fields)
