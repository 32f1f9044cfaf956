"""The engine child: slots, a queue, prefill, and tokens on an absolute schedule. JSON lines in, JSON lines out.

It is a process of its own below its handler, as EngineCore, the scheduler or an MPI rank is in the real engines, and it
lives as long as the handler's end of its standard input. In come ``generate``, ``abort`` and ``status``; out go
``ready``, ``phases``, ``tokens`` (all that one tick made, in one line) and ``status``.
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
    """One request in the engine."""

    __slots__ = ("chain", "emitted", "ended", "max_tokens", "request_id", "resumed", "seed", "start", "token_ids")

    def __init__(self, message: dict[str, Any]) -> None:
        self.request_id: str = message["id"]
        self.token_ids: list[int] = message["token_ids"]
        self.max_tokens: int = message["max_tokens"]
        self.seed: int = message["seed"]
        self.resumed: bool = message.get("resumed", False)
        self.chain: Chain | None = None  # None until its prefill is done
        self.start = 0.0  # when its first token was due
        self.emitted = 0
        self.ended = False

    def blocks(self) -> int:
        """KV blocks that it holds: none while it is queued."""
        return -(-(len(self.token_ids) + self.emitted) // BLOCK)


class Core:
    """The engine's state; :meth:`step` is one tick of it."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.queue: deque[Sequence] = deque()
        self.slots: dict[str, Sequence] = {}
        self.due: list[tuple[float, int, Sequence]] = []
        self.generated = 0
        self._order = 0  # a tie in the heap goes by age
        self._phases: list[tuple[str, str]] = []
        self._batch: list[tuple[str, list[int], str | None]] = []

    def receive(self, message: dict[str, Any], now: float) -> list[dict[str, Any]]:
        """One line of the handler's; the answers that cannot wait."""
        if message["op"] == "generate":
            self._phases.append((message["id"], "queued"))
            self.queue.append(Sequence(message))
            self._admit(now)
        elif message["op"] == "abort":
            self._abort(message["id"], now)
        else:
            return [{"op": "status", "status": self.status()}]
        return []

    def status(self) -> dict[str, int]:
        """Slots, queue, KV blocks in use and tokens made since the start."""
        return {
            "slots_busy": len(self.slots),
            "slots_total": self.settings.slots,
            "kv_used": sum(sequence.blocks() for sequence in self.slots.values()),
            "generated": self.generated,
            "queued": len(self.queue),
        }

    def step(self, now: float) -> None:
        """Everything that is due: prefills that end, tokens that are made."""
        while self.due and self.due[0][0] <= now:
            when, _, sequence = heapq.heappop(self.due)
            if sequence.ended:
                continue
            if sequence.chain is None:
                self._phases.append((sequence.request_id, "decode"))
                sequence.chain = Chain(sequence.seed, sequence.token_ids)
                sequence.start = when
            self._decode(sequence, sequence.chain, now)

    def drain_lines(self) -> list[dict[str, Any]]:
        """What this tick has to say."""
        lines: list[dict[str, Any]] = []
        if self._phases:
            lines.append({"op": "phases", "batch": self._phases})
            self._phases = []
        if self._batch:
            lines.append({"op": "tokens", "batch": self._batch})
            self._batch = []
        return lines

    def _decode(self, sequence: Sequence, chain: Chain, now: float) -> None:
        speed = self.settings.speed
        late = now - (sequence.start + sequence.emitted / speed)
        if late > CATCH_UP_S:
            sequence.start += late
        wanted = int((now - sequence.start) * speed) + 1 - sequence.emitted
        made = chain.take(max(1, min(wanted, sequence.max_tokens - sequence.emitted)))
        sequence.emitted += len(made)
        self.generated += len(made)
        if sequence.emitted >= sequence.max_tokens:
            self._batch.append((sequence.request_id, made, "length"))
            self._release(sequence, now)
        else:
            self._batch.append((sequence.request_id, made, None))
            self._schedule(sequence, sequence.start + sequence.emitted / speed)

    def _schedule(self, sequence: Sequence, when: float) -> None:
        self._order += 1
        heapq.heappush(self.due, (when, self._order, sequence))

    def _admit(self, now: float) -> None:
        while self.queue and len(self.slots) < self.settings.slots:
            sequence = self.queue.popleft()
            self.slots[sequence.request_id] = sequence
            self._phases.append((sequence.request_id, "prefill"))
            self._schedule(sequence, now + len(sequence.token_ids) / self.settings.prefill_tokens_per_s)

    def _abort(self, request_id: str, now: float) -> None:
        sequence = self.slots.get(request_id)
        if sequence is None:
            sequence = next((queued for queued in self.queue if queued.request_id == request_id), None)
            if sequence is not None:
                self.queue.remove(sequence)
        if sequence is None or sequence.ended:
            return  # it ended while the abort was on its way
        self._batch.append((request_id, [], "abort"))
        self._release(sequence, now)

    def _release(self, sequence: Sequence, now: float) -> None:
        sequence.ended = True
        if self.settings.bug == "busy-slot" and (sequence.resumed or sequence.emitted < sequence.max_tokens):
            return
        self.slots.pop(sequence.request_id, None)
        self._admit(now)


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
