"""The engine child: a process of its own below its handler, as EngineCore, the scheduler or an MPI rank is in the real engines.

JSON lines in, JSON lines out. It says ``ready``, then what its :class:`~ftharness.engine.core.Core` has to say, and lives as
long as the handler's end of its standard input.
"""

import argparse
import contextlib
import json
import os
import select
import signal
import time
from typing import Any

from ftharness.engine.core import TICK_S, Core
from ftharness.engine.settings import add_engine_arguments, settings_of


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
        timeout, due_at = None, core.next_at()
        if due_at is not None:
            timeout = max(due_at, last_tick + TICK_S) - time.monotonic()
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
    parser = argparse.ArgumentParser(prog="engine_process", description=__doc__)
    add_engine_arguments(parser)
    # A Ctrl-C is for the handler to decide about; SIGTERM to the tree ends an engine at once, as it does the real ones.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(Core(settings_of(parser.parse_args(argv))))
    return 0
