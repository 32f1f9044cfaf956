"""The halves of a request where Dynamo's frontend routes it: the two workers hear of each other by what it passes on.

A prefill is over for the frontend as soon as it has the answer that says where the KV is. It tells a decode worker, and
from there on has no more to do with whoever holds the KV: it never says that a decode will not come. So the two workers
settle it over their connection. A decode that has taken the request says so to the holder (``accepted``) at once, before it
waits for a slot: the KV is its own from then on, and is let go when it is over, or when the connection is. A KV that nobody
has come for within the time that it is held is let go, too.
"""

import asyncio

from ftharness.engine.link import Link, Party
from ftharness.engine.part_decode import Decode
from ftharness.engine.part_prefill import Prefill
from ftharness.engine.parts import Bench, Message, Part


def begin(bench: Bench, asker: Party, role: str, message: Message) -> None:
    """Begins what a worker of that role does of a request.

    A decode worker that gets one without a KV does the whole of it, as Dynamo's own do: the frontend sends such when it
    knows no prefill worker.
    """
    kind = Offered if role == "prefill" else Fetched if "kv" in message else Part
    kind(bench, asker, message).begin()


class Offered(Prefill):
    """A KV for a decode of which nobody knows yet whether it comes: held for ``hold_s`` of the message's."""

    def on_message(self, link: Link, message: Message) -> None:
        """A decode has come for it."""
        if message["op"] == "accepted":
            self._reader = link
        else:
            super().on_message(link, message)

    def _offer(self) -> None:
        super()._offer()
        asyncio.get_running_loop().call_later(self._message["hold_s"], self._expire)

    def _expire(self) -> None:
        if not self._cancelling and self.bench.parts.get(self.key) is self:
            self.on_lost(self.asker, f"no decode has come for it within {self._message['hold_s']:g} s")


class Fetched(Decode):
    """A decode from the KV of which the frontend has told: it has it from there, or not at all."""

    def begin(self) -> None:
        """Connects to the holder, unless there is a connection."""
        m = self._message
        self.bench.peers.announced([{"worker": m["kv"], "port": m["kv_port"]}])
        super().begin()

    def _accept(self) -> None:
        super()._accept()
        self._holder.tell("accepted")

    def _ask_prefill(self) -> bool:
        return False  # that is the frontend's to do, when the request moves
