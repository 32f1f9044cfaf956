"""The decode of a request: an answer from a KV that another worker holds, or has to make first."""

from ftharness.engine.link import Link, Party
from ftharness.engine.parts import Bench, Message, OtherHalf, Part


class Decode(Part):
    """A slot, taken at once; then the KV; then the tokens."""

    def __init__(self, bench: Bench, asker: Party, message: Message) -> None:
        super().__init__(bench, asker, message)
        self._holder = OtherHalf(self, "prefill")  # of the KV
        self._prefilled = "kv" in message
        self._fetched = False
        self._cancelling = False  # in the prefill's worker, whose word is awaited

    def begin(self) -> None:
        """Finds whom to have the KV from; without anybody it is refused."""
        m = self._message
        if not self._prefilled:
            self._ask_prefill()
        else:
            self._holder.link = self.asker if m["kv"] == self.asker.name else self.bench.peers.link(m["kv"])
        if self._holder.link is None:
            reason = f"without the worker {m['kv']}" if self._prefilled else "without a prefill worker"
            self.asker.send(op="refused", key=self.key, reason=reason)
            return
        self._accept()
        self.bench.engine.decode(
            self.key, len(m["token_ids"]), m["max_tokens"], resumed=self.resumed, prefilled=self._prefilled
        )

    def on_phase(self, phase: str) -> None:
        """With a slot and a KV to be had, it is sent for; once it is here its holder is not needed any more."""
        super().on_phase(phase)
        if phase == "kv_transfer":
            self._holder.tell("pull")
        elif phase == "decode":
            self._fetched = True

    def on_end(self, reason: str) -> None:
        """Whoever holds the KV hears of it, unless the last token told it."""
        if self._cancelling:
            return
        if self._holder.link is not self.asker:
            self._holder.tell("over", aborted=reason == "abort" and not self._stopped)
        self._close(aborted=reason == "abort")

    def on_remote_end(self, reason: str) -> None:
        """The prefill was given up."""
        del reason
        self._close(aborted=True, remote=True)

    def on_message(self, link: Link, message: Message) -> None:
        """The prefill is taken, refused or done; or here is the KV."""
        op = message["op"]
        if op == "accepted":
            self._holder.taken = True
        elif op == "prefilled":
            self._prefilled = True
            self.bench.engine.prefilled(self.key)
        elif op == "kv":
            self.bench.engine.receive_kv(self.key, message["state"])
        elif op == "refused" and self._cancelling:
            self._close(aborted=True)
        elif op == "refused":
            if not self._ask_prefill():
                self._lose("refused", message["reason"])
        else:
            super().on_message(link, message)

    def on_lost(self, link: Party, reason: str) -> None:
        """Until the KV is here, its holder's end is this one's, too."""
        if link is self.asker:
            self.cancel(kill=True)
        elif link is not self._holder.link or self._fetched:
            return
        elif self._cancelling:
            self._close(aborted=True, remote=True)
        elif self._holder.taken or self._prefilled or not self._ask_prefill():
            self._lose("lost", f"worker {link.name} is gone ({reason})", worker=link.name)

    def cancel(self, *, kill: bool) -> None:
        """In the phase that it is in: while another worker prefills, that one has to give it up."""
        super().cancel(kill=kill)
        if not self._prefilled and not self._cancelling:
            self._cancelling = True
            self._holder.tell("cancel", kill=kill)

    def _ask_prefill(self) -> bool:
        return self._holder.ask(self._message | {"op": "prefill"})

    def _lose(self, op: str, reason: str, **more: str) -> None:
        self.asker.send(op=op, key=self.key, reason=reason, **more)
        self.bench.engine.abort(self.key)
        self.bench.log.lost(self.id, reason)
        self._drop()
