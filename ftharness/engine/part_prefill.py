"""The prefill of a request: a KV that is held for whoever decodes; with or without passing the answer on."""

from ftharness.engine.link import Link, Party
from ftharness.engine.parts import Bench, Message, OtherHalf, Part


class Prefill(Part):
    """A prompt's KV, held until the decode of it is over."""

    def __init__(self, bench: Bench, asker: Party, message: Message) -> None:
        super().__init__(bench, asker, message)
        self._held = False
        self._cancelling = False
        self._reader: Link | None = None  # the decode's worker, once it has sent for the KV

    def begin(self) -> None:
        """Gives the prompt to the engine."""
        self._accept()
        self.bench.engine.prefill(self.key, self._message["token_ids"], self._message["seed"])

    def on_phase(self, phase: str) -> None:
        """When the engine holds the KV it is there for whoever decodes, unless an abort is on its way to the engine."""
        if phase != "prefilled":
            super().on_phase(phase)
        elif not self._cancelling:
            self._held = True
            self._offer()

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

    def on_lost(self, link: Party, reason: str) -> None:
        """The KV goes with whoever it was for."""
        if link is self._reader or (link is self.asker and self._held and self._reader is None):
            self._release(reason)
        elif link is self.asker and self._reader is None:
            self.cancel(kill=True)

    def cancel(self, *, kill: bool) -> None:
        """Ends it, whether the engine reads the prompt or holds its KV."""
        self._cancelling = True
        super().cancel(kill=kill)

    def _offer(self) -> None:
        self.asker.send(op="prefilled", key=self.key)

    def _release(self, reason: str) -> None:
        self.bench.engine.release(self.key)
        self.bench.log.released(self.id, reason)
        self._drop()


class Handover(Prefill):
    """A request that is prefilled here, handed to a worker that decodes it, and answered from there."""

    relays = True

    def __init__(self, bench: Bench, asker: Party, message: Message) -> None:
        super().__init__(bench, asker, message)
        self._decoder = OtherHalf(self, "decode")

    def on_message(self, link: Link, message: Message) -> None:
        """The decode's worker takes it or refuses it."""
        if message["op"] == "accepted":
            self._decoder.taken = True
        elif message["op"] == "refused":
            self._untaken()
        else:
            super().on_message(link, message)

    def on_remote_end(self, reason: str) -> None:
        """The answer is complete, or was given up in the decode's worker."""
        self.bench.engine.release(self.key)
        self._close(aborted=reason == "abort", remote=True)

    def on_lost(self, link: Party, reason: str) -> None:
        """Without the decode's worker there is no more to pass on."""
        if link is self.asker:
            self.cancel(kill=True)
        elif link is self._decoder.link and self._decoder.taken and not self._cancelling:
            self._lose("lost", f"worker {link.name} is gone ({reason})", worker=link.name)
        elif link is self._decoder.link:
            self._untaken()

    def cancel(self, *, kill: bool) -> None:
        """Whoever has it now ends it."""
        if self._decoder.link is None:
            super().cancel(kill=kill)
            if self.bench.bug == "handed-on-anyway" and self._decoder.ask(self._handover()):
                self._decoder.tell("cancel", kill=kill)
        else:
            self._cancelling, self._stopped = True, not kill
            self._decoder.tell("cancel", kill=kill)

    def _handover(self) -> Message:
        return self._message | {"kv": self.bench.name}

    def _offer(self) -> None:
        if not self._decoder.ask(self._handover()):
            self._lose("refused", "without a decode worker")

    def _untaken(self) -> None:
        """No other worker has it: what was cancelled ends here, else the next one is asked."""
        if self._cancelling:
            super().cancel(kill=not self._stopped)
        else:
            self._offer()

    def _lose(self, op: str, reason: str, **more: str) -> None:
        self.asker.send(op=op, key=self.key, reason=reason, **more)
        self._release(reason)
