"""The engine child: slots, a queue, prefill, and tokens on an absolute schedule. JSON lines in, JSON lines out.

It is a process of its own below its handler, as EngineCore, the scheduler or an MPI rank is in the real engines, and it
lives as long as the handler's end of its standard input. In come the ops of :meth:`Core.receive`; out go ``ready``,
``phases``, ``tokens`` and ``kv`` (each all that one tick made, in one line) and ``status``.

A request that two engines share is a ``prefill`` in the one and a ``decode`` in the other. The first reads the prompt and
holds its KV; the second takes a slot, has the KV sent to it once it is told that there is one, and decodes. All that a KV
cache of this model holds is the state of its chain: a decode goes on from what it was sent, and from nothing else.
"""

import argparse
import contextlib
import heapq
import json
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ftharness.engine.settings import EngineSettings, add_engine_arguments, settings_of
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
        self._stale_abort = False  # a planted bug's
        self._order = 0  # a tie in the heap goes by age
        self._said: dict[str, list[Any]] = {"phases": [], "tokens": [], "kv": []}

    def receive(self, message: dict[str, Any], now: float) -> list[dict[str, Any]]:
        """One line of the handler's; the answers that cannot wait.

        ``generate``, ``prefill`` and ``decode`` begin a request, ``abort`` ends any. ``prefilled`` tells a decode that its
        KV is to be had, ``kv`` brings it. ``send`` has a held KV sent, ``release`` lets it go.
        """
        op = message["op"]
        if op == "status":
            return [{"op": "status", "status": self.status()}]
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
        }

    def step(self, now: float) -> None:
        """Everything that is due: prefills that end, KV that has been sent, tokens that are made."""
        while self.due and self.due[0][0] <= now:
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

    # A sequence's life, in its order.

    def _admit(self, now: float) -> None:
        while self.queue and len(self.slots) < self.settings.slots:
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
        made = sequence.chain.take(max(1, min(wanted, sequence.max_tokens - sequence.emitted)))
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


def _say(lines: list[dict[str, Any]]) -> None:
    """Writes to the handler. When it is gone, the end of our input says so: that decides, not this."""
    data = "".join([json.dumps(line, separators=(",", ":")) + "\n" for line in lines]).encode()
    with contextlib.suppress(BrokenPipeError):
        while data:
            data = data[os.write(1, data) :]


def serve(core: Core) -> None:
    """Ticks until the handler is gone."""
    _say([{"op": "ready", "pid": os.getpid()}])
    partial, last_tick, listen = b"", 0.0, [0]
    while True:
        timeout = None
        if core.due:
            timeout = max(core.due[0][0], last_tick + TICK_S) - time.monotonic()
        readable, _, _ = select.select(listen, [], [], None if timeout is None else max(0.0, timeout))
        now = time.monotonic()
        answers: list[dict[str, Any]] = []
        if readable:
            data = os.read(0, 1 << 20)
            if not data and core.settings.bug != "orphan-engine":
                return  # the handler is gone, however it went
            if not data:
                listen = []
            *complete, partial = (partial + data).split(b"\n")
            for line in complete:
                answers += core.receive(json.loads(line), now)
        if not readable or now >= last_tick + TICK_S:
            core.step(now)
            last_tick = now
        answers += core.drain_lines()
        if answers and listen:
            _say(answers)


def main(argv: list[str]) -> int:
    """Runs an engine below the handler that started this process."""
    parser = argparse.ArgumentParser(prog="core", description=__doc__)
    add_engine_arguments(parser)
    # A Ctrl-C is for the handler to decide about; SIGTERM to the tree ends an engine at once, as it does the real ones.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(Core(settings_of(parser.parse_args(argv))))
    return 0
