"""A worker's part in a request: all of it, its prefill, or its decode. What each does when something happens to it.

Whoever asks for a part speaks the same language, the frontend on the plane and a worker on a connection between two:

    generate {key id token_ids max_tokens seed attempt [kv]}    the answer: by a decode worker, from the KV that ``kv`` holds
    prefill  {key id token_ids seed attempt}                    the KV, to be held
    cancel   {key kill}                                         with ``kill`` its client is gone, else it had all it wanted

and is answered ``accepted``, ``refused`` or ``lost`` (with the reason), ``prefilled``, and ``tokens``, whose last entry has a
finish reason. Between a decode and whoever holds its KV there are beside that:

    pull {key}    send it            kv {key state}    here it is            over {key aborted}    the decode has ended: let it go

A ``key`` is one attempt at a request: the frontend makes it, and it is the same on each connection and in each engine. So
what an earlier attempt left somewhere is never taken for a later one's.

Nothing is tried twice in here. A part whose other half is lost is lost, and says so to whoever asked; at the end of that stands
the frontend, whose rules of migration are the only ones.
"""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from ftharness.engine.dialects import HandlerLog
from ftharness.engine.engine_child import EngineChild
from ftharness.engine.link import Link
from ftharness.engine.peers import Peers
from ftharness.engine.status import Counters

Message = dict[str, Any]


class Bench(NamedTuple):
    """What the parts on one worker share.

    Attributes:
        name: The worker's.
        parts: Those that have not ended, by their keys.
        ended: Told of each that has, and whether that was in order.
    """

    name: str
    parts: "dict[str, Part]"
    engine: EngineChild
    log: HandlerLog
    counters: Counters
    peers: Peers
    ended: "Callable[[Part, bool], None]"


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

    def __init__(self, bench: Bench, asker: Link, message: Message) -> None:
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

    def on_lost(self, link: Link, reason: str) -> None:
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
            bench.counters.cancelled += 1
            (bench.log.remote_aborted if remote else bench.log.aborted)(self.id)
        else:
            bench.counters.finished += 1
            bench.counters.seconds += asyncio.get_running_loop().time() - self._started
            bench.log.finished(self.id)
        bench.ended(self, not aborted)

    def _drop(self) -> None:
        """It cannot go on, and nobody gave it up: nothing is said of its end but what told of the reason."""
        del self.bench.parts[self.key]
        self.bench.ended(self, False)  # noqa: FBT003  a callback's


class Prefill(Part):
    """A prompt's KV, held until the decode of it is over."""

    def __init__(self, bench: Bench, asker: Link, message: Message) -> None:
        super().__init__(bench, asker, message)
        self._held = False
        self._reader: Link | None = None  # the decode's worker, once it has sent for the KV

    def begin(self) -> None:
        """Gives the prompt to the engine."""
        self._accept()
        self.bench.engine.prefill(self.key, self._message["token_ids"], self._message["seed"])

    def on_phase(self, phase: str) -> None:
        """When the engine holds the KV it is there for whoever decodes."""
        if phase == "prefilled":
            self._held = True
            self._offer()
        else:
            super().on_phase(phase)

    def on_kv(self, state: int) -> None:
        """The KV has come as far as this process; the peer that sent for it gets it."""
        assert self._reader is not None, "it is sent when it was sent for"
        self._reader.send(op="kv", key=self.key, state=state)

    def on_message(self, link: Link, message: Message) -> None:
        """The decode sends for the KV, or is over."""
        if message["op"] == "pull":
            self._reader = link
            self.bench.engine.send_kv(self.key)
        elif message["op"] == "over":
            self.bench.engine.release(self.key)
            self._close(aborted=message["aborted"], remote=True)
        elif message["op"] == "release":  # the frontend's: the decode is lost
            self._release("the decode is lost")
        else:
            super().on_message(link, message)

    def on_lost(self, link: Link, reason: str) -> None:
        """The KV goes with whoever it was for."""
        if link is self._reader or (link is self.asker and self._held and self._reader is None):
            self._release(reason)
        elif link is self.asker and self._reader is None:
            self.cancel(kill=True)

    def _offer(self) -> None:
        self.asker.send(op="prefilled", key=self.key)

    def _release(self, reason: str) -> None:
        self.bench.engine.release(self.key)
        self.bench.log.released(self.id, reason)
        self._drop()


class Handover(Prefill):
    """A request that is prefilled here, handed to a worker that decodes it, and answered from there."""

    relays = True

    def __init__(self, bench: Bench, asker: Link, message: Message) -> None:
        super().__init__(bench, asker, message)
        self._decoder: Link | None = None

    def on_message(self, link: Link, message: Message) -> None:
        """The decode's worker may refuse it."""
        if message["op"] == "refused":
            self._lose("refused", message["reason"])
        else:
            super().on_message(link, message)

    def on_remote_end(self, reason: str) -> None:
        """The answer is complete, or was given up in the decode's worker."""
        self.bench.engine.release(self.key)
        self._close(aborted=reason == "abort", remote=True)

    def on_lost(self, link: Link, reason: str) -> None:
        """Without the decode's worker there is no more to pass on."""
        if link is self._decoder:
            self._lose("lost", f"worker {link.name} is gone ({reason})")
        elif link is self.asker:
            self.cancel(kill=True)

    def cancel(self, *, kill: bool) -> None:
        """Whoever has it now ends it."""
        if self._decoder is None:
            super().cancel(kill=kill)
        else:
            self._stopped = not kill
            self._decoder.send(op="cancel", key=self.key, kill=kill)

    def _offer(self) -> None:
        self._decoder = self.bench.peers.pick("decode")
        if self._decoder is None:
            self._lose("refused", "without a decode worker")
        else:
            self._decoder.send(**self._message | {"kv": self.bench.name})

    def _lose(self, op: str, reason: str) -> None:
        self.asker.send(op=op, key=self.key, reason=reason)
        self._release(reason)


class Decode(Part):
    """An answer from a KV that another worker holds, or has to make first."""

    def __init__(self, bench: Bench, asker: Link, message: Message) -> None:
        super().__init__(bench, asker, message)
        self._holder = asker  # of the KV
        self._prefilled = "kv" in message
        self._fetched = False
        self._cancelling = False  # in the prefill's worker, whose word is awaited

    def begin(self) -> None:
        """A slot is taken at once, whether or not there is a KV; without anybody to have it from it is refused."""
        m = self._message
        if not self._prefilled:
            holder = self.bench.peers.pick("prefill")
        else:
            holder = self.asker if m["kv"] == self.asker.name else self.bench.peers.link(m["kv"])
        if holder is None:
            reason = f"without the worker {m['kv']}" if self._prefilled else "without a prefill worker"
            self.asker.send(op="refused", key=self.key, reason=reason)
            return
        self._accept()
        self._holder = holder
        self.bench.engine.decode(
            self.key, len(m["token_ids"]), m["max_tokens"], resumed=self.resumed, prefilled=self._prefilled
        )
        if not self._prefilled:
            holder.send(**m | {"op": "prefill"})

    def on_phase(self, phase: str) -> None:
        """With a slot and a KV to be had, it is sent for; once it is here its holder is not needed any more."""
        super().on_phase(phase)
        if phase == "kv_transfer":
            self._holder.send(op="pull", key=self.key)
        elif phase == "decode":
            self._fetched = True

    def on_end(self, reason: str) -> None:
        """Whoever holds the KV hears of it, unless the last token told it."""
        if self._cancelling:
            return
        aborted = reason == "abort" and not self._stopped
        if self._holder is not self.asker:
            self._holder.send(op="over", key=self.key, aborted=aborted)
        self._close(aborted=reason == "abort")

    def on_remote_end(self, reason: str) -> None:
        """The prefill was given up."""
        del reason
        self._close(aborted=True, remote=True)

    def on_message(self, link: Link, message: Message) -> None:
        """The prefill is done, or refused; or here is the KV."""
        if message["op"] == "prefilled":
            if not self._cancelling:  # otherwise the cancellation meets it there
                self._prefilled = True
                self.bench.engine.prefilled(self.key)
        elif message["op"] == "kv":
            self.bench.engine.receive_kv(self.key, message["state"])
        elif message["op"] == "refused" and self._cancelling:
            self._close(aborted=True)
        elif message["op"] == "refused":
            self._lose("refused", message["reason"])
        else:
            super().on_message(link, message)

    def on_lost(self, link: Link, reason: str) -> None:
        """Until the KV is here, its holder's end is this one's, too."""
        if link is self.asker:
            self.cancel(kill=True)
        elif link is self._holder and self._cancelling:
            self._close(aborted=True, remote=True)
        elif link is self._holder and not self._fetched:
            self._lose("lost", f"worker {link.name} is gone ({reason})")

    def cancel(self, *, kill: bool) -> None:
        """In the phase that it is in: while another worker prefills, that one has to give it up."""
        super().cancel(kill=kill)
        if not self._prefilled and not self._cancelling:
            self._cancelling = True
            self._holder.send(op="cancel", key=self.key, kill=kill)

    def _lose(self, op: str, reason: str) -> None:
        self.asker.send(op=op, key=self.key, reason=reason)
        self.bench.engine.abort(self.key)
        self._drop()
