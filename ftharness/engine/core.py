"""The engine: slots, a queue, prefill, and tokens on an absolute schedule; asleep it makes none.

In come the ops of :meth:`Core.receive`; out go ``phases``, ``tokens``, ``kv`` and ``awake`` (each all that one tick made, in
one line), ``paused`` and ``status``.

A request that two engines share is a ``prefill`` in the one and a ``decode`` in the other. The first reads the prompt and
holds its KV; the second takes a slot, has the KV sent to it once it is told that there is one, and decodes. All that a KV
cache of this model holds is the state of its chain: a decode goes on from what it was sent, and from nothing else.
"""

import heapq
from collections import deque
from collections.abc import Callable
from typing import Any

from ftharness.engine.settings import EngineSettings
from ftharness.engine.tokens import Chain

#: Tokens of a KV block.
BLOCK = 16
#: Seconds that a wake-up is put off after the one before: many streams then share a line.
TICK_S = 0.002
#: Seconds by which a stream may be behind and still catch up. A thawed engine goes on at its speed, not in a burst.
CATCH_UP_S = 0.25


class Sequence:
    """One request in the engine, or its half of one."""

    __slots__ = (
        *("chain", "context", "emitted", "ended", "max_tokens", "op", "prefilled"),
        *("request_id", "resumed", "seed", "start", "token_ids"),
    )

    def __init__(self, message: dict[str, Any]) -> None:
        self.op: str = message["op"]
        self.request_id: str = message["id"]
        self.token_ids: list[int] = message.get("token_ids", [])
        self.context: int = message.get("context", len(self.token_ids))
        self.max_tokens: int = message.get("max_tokens", 0)
        self.seed: int = message.get("seed", 0)
        self.resumed: bool = message.get("resumed", False)
        self.prefilled: bool = message.get("prefilled", False)  # of a decode: there is a KV to be sent for
        self.chain: Chain | None = None  # None until its prefill is done, or its KV has come
        self.start = 0.0  # when its first token was due
        self.emitted = 0
        self.ended = False

    def blocks(self) -> int:
        """KV blocks that it holds: none while it is queued."""
        return -(-(self.context + self.emitted) // BLOCK)


#: What is due: done to the sequence, with the time at which it was due and the time that it is.
_Deed = Callable[[Sequence, float, float], None]


class Core:
    """The engine's state; :meth:`step` is one tick of it."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.queue: deque[Sequence] = deque()
        self.slots: dict[str, Sequence] = {}
        self.held: dict[str, Sequence] = {}  # prefilled, for an engine that decodes
        self.due: list[tuple[float, int, _Deed, Sequence]] = []
        self.generated = 0
        self.paused = False  # asleep: it takes requests, and makes nothing of them
        self._wakes_at: float | None = None
        self._wake_fails = False
        self._stale_abort = False  # a planted bug's
        self._order = 0  # a tie in the heap goes by age
        self._said: dict[str, list[Any]] = {"phases": [], "tokens": [], "kv": [], "awake": []}

    def receive(self, message: dict[str, Any], now: float) -> list[dict[str, Any]]:
        """One line of the handler's; the answers that cannot wait.

        ``generate``, ``prefill`` and ``decode`` begin a request, ``abort`` ends any. ``prefilled`` tells a decode that its
        KV is to be had, ``kv`` brings it. ``send`` has a held KV sent, ``release`` lets it go. ``pause`` puts the engine to
        sleep at once, ``resume`` wakes it, which takes ``wake_s`` seconds.
        """
        op = message["op"]
        if op == "status":
            return [{"op": "status", "status": self.status()}]
        if op == "pause":
            self.paused, self._wakes_at = True, None
            return [{"op": "paused"}]
        if op == "resume":
            self._wakes_at, self._wake_fails = now + message["wake_s"], message["fails"]
            return []
        if op in ("generate", "prefill", "decode"):
            self._tell_phase(message["id"], "queued")
            self.queue.append(Sequence(message))
            self._admit(now)
            if self._stale_abort:
                self._stale_abort = False
                self._give_up(message["id"], now)
        elif op == "abort":
            self._abort(message["id"], now)
        elif op == "prefilled":
            self._prefilled_elsewhere(message["id"])
        elif op == "kv":
            self._receive_kv(message["id"], message["state"], now)
        elif op == "send":
            self._send_kv(message["id"], now)
        else:
            self._let_go(message["id"])
        return []

    def status(self) -> dict[str, int]:
        """Slots, queue, KV blocks in use and tokens made since the start."""
        return {
            "slots_busy": len(self.slots),
            "slots_total": self.settings.slots,
            "kv_used": sum(sequence.blocks() for held in (self.slots, self.held) for sequence in held.values()),
            "generated": self.generated,
            "queued": len(self.queue),
            "paused": int(self.paused),
        }

    def next_at(self) -> float | None:
        """When something is due, in the clock of :meth:`step`; None: not before somebody says something."""
        due = [when for when, *_ in self.due[:1] if not self.paused]
        return min([*due, *([] if self._wakes_at is None else [self._wakes_at])], default=None)

    def step(self, now: float) -> None:
        """Everything that is due: prefills that end, KV that has been sent, tokens that are made."""
        if self._wakes_at is not None and self._wakes_at <= now:
            self._wake(now)
        while self.due and self.due[0][0] <= now and not self.paused:
            when, _, deed, sequence = heapq.heappop(self.due)
            if not sequence.ended:
                deed(sequence, when, now)

    def drain_lines(self) -> list[dict[str, Any]]:
        """What this tick has to say."""
        lines: list[dict[str, Any]] = []
        for op, batch in self._said.items():
            if batch:
                lines.append({"op": op, "batch": batch})
                self._said[op] = []
        return lines

    def _wake(self, now: float) -> None:
        self._wakes_at, self.paused = None, self._wake_fails
        self._said["awake"].append("the engine did not wake: it was told to fail" if self._wake_fails else "")
        self._admit(now)

    # A sequence's life, in its order.

    def _admit(self, now: float) -> None:
        while self.queue and len(self.slots) < self.settings.slots and not self.paused:
            sequence = self.queue.popleft()
            self.slots[sequence.request_id] = sequence
            if sequence.op != "decode":
                self._tell_phase(sequence.request_id, "prefill")
                self._schedule(sequence, now + sequence.context / self.settings.prefill_tokens_per_s, self._end_prefill)
            elif sequence.prefilled:
                self._tell_phase(sequence.request_id, "kv_transfer")

    def _end_prefill(self, sequence: Sequence, when: float, now: float) -> None:
        sequence.chain = Chain(sequence.seed, sequence.token_ids)
        if sequence.op == "prefill":
            del self.slots[sequence.request_id]
            self.held[sequence.request_id] = sequence
            self._tell_phase(sequence.request_id, "prefilled")
            self._admit(now)
        else:
            self._begin_decode(sequence, when, now)

    def _send_kv(self, request_id: str, now: float) -> None:
        sequence = self.held.get(request_id)
        if sequence is not None:
            self._schedule(sequence, now + sequence.context / self.settings.kv_tokens_per_s, self._sent_kv)

    def _sent_kv(self, sequence: Sequence, when: float, now: float) -> None:
        del when, now
        assert sequence.chain is not None, "only what is prefilled is held"
        self._said["kv"].append((sequence.request_id, sequence.chain.state))

    def _let_go(self, request_id: str) -> None:
        sequence = self.held.pop(request_id, None)
        if sequence is not None:
            sequence.ended = True

    def _prefilled_elsewhere(self, request_id: str) -> None:
        sequence = self._find(request_id)
        if sequence is not None:
            sequence.prefilled = True
            if request_id in self.slots:
                self._tell_phase(request_id, "kv_transfer")

    def _receive_kv(self, request_id: str, state: int, now: float) -> None:
        sequence = self._find(request_id)
        if sequence is not None:  # otherwise it was given up while its KV was on the way
            sequence.chain = Chain.resume(state)
            self._begin_decode(sequence, now, now)

    def _begin_decode(self, sequence: Sequence, when: float, now: float) -> None:
        self._tell_phase(sequence.request_id, "decode")
        sequence.start = when
        self._decode(sequence, when, now)

    def _decode(self, sequence: Sequence, when: float, now: float) -> None:
        del when
        assert sequence.chain is not None, "it has been prefilled"
        speed = self.settings.speed
        late = now - (sequence.start + sequence.emitted / speed)
        if late > CATCH_UP_S:
            sequence.start += late
        wanted = int((now - sequence.start) * speed) + 1 - sequence.emitted
        # Nothing is left where its worker was lost between the last token and the end.
        made = sequence.chain.take(min(max(1, wanted), sequence.max_tokens - sequence.emitted))
        sequence.emitted += len(made)
        self.generated += len(made)
        if sequence.emitted >= sequence.max_tokens:
            self._said["tokens"].append((sequence.request_id, made, "length"))
            self._end(sequence, now)
        else:
            self._said["tokens"].append((sequence.request_id, made, None))
            self._schedule(sequence, sequence.start + sequence.emitted / speed, self._decode)

    def _abort(self, request_id: str, now: float) -> None:
        if self.settings.bug == "ignored-abort":
            return
        self._give_up(request_id, now)
        if self.settings.bug == "neighbour-abort" and self.slots:
            self._give_up(next(iter(self.slots)), now)
        self._stale_abort = self.settings.bug == "stale-abort"

    def _give_up(self, request_id: str, now: float) -> None:
        sequence = self._find(request_id)
        if sequence is None:
            return  # it ended while the abort was on its way
        if request_id not in self.slots and request_id not in self.held:
            self.queue.remove(sequence)
        self._said["tokens"].append((request_id, [], "abort"))
        self._end(sequence, now, aborted=True)

    def _end(self, sequence: Sequence, now: float, *, aborted: bool = False) -> None:
        sequence.ended = not (aborted and sequence.emitted and self.settings.bug == "endless-decode")
        self.held.pop(sequence.request_id, None)
        if aborted and self.settings.bug == "leaked-kv":
            self.held[f"{sequence.request_id} leaked"] = sequence
        if aborted and self.settings.bug == "leaked-slot":
            sequence.context = sequence.emitted = 0  # the slot alone, without its KV
            return
        if self.settings.bug == "busy-slot" and (sequence.resumed or sequence.emitted < sequence.max_tokens):
            return
        self.slots.pop(sequence.request_id, None)
        self._admit(now)

    def _find(self, request_id: str) -> Sequence | None:
        """Wherever it is, unless it has ended."""
        found = self.slots.get(request_id) or self.held.get(request_id)
        if found is None:
            found = next((queued for queued in self.queue if queued.request_id == request_id), None)
        return None if found is None or found.ended else found

    def _schedule(self, sequence: Sequence, when: float, deed: _Deed) -> None:
        self._order += 1
        heapq.heappush(self.due, (when, self._order, deed, sequence))

    def _tell_phase(self, request_id: str, phase: str) -> None:
        self._said["phases"].append((request_id, phase))
