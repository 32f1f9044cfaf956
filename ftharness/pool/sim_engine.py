"""An engine that serves alone and needs nothing: OpenAI's completions over HTTP, deterministic tokens, and ways to misbehave.

It stands where ``vllm serve`` would, for pools on a machine without a GPU: the profile ``sim``. How it misbehaves is said by
flags, by a file ``misbehave.json`` in the folder of its model, or by ``POST /misbehave`` while it runs; each of them sets fields
of :class:`Misbehaviour`. Standard library only, as it may run under any interpreter: see ``launch_sim.py``.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NoReturn

from ftharness.engine.tokens import FIRST_BYTE, VOCABULARY, Chain
from ftharness.pool.sim_http import Answer, NotFound, Serving, event

VERSION = "1.0"
#: What a driver's error looks like in a log, by the words that the flag takes.
CUDA_ERRORS = {
    "oom": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.77 GiB",
    "ecc": "RuntimeError: CUDA error: uncorrectable ECC error encountered",
    "nccl": "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:2006, unhandled system error",
    "driver": "RuntimeError: CUDA driver version is insufficient for CUDA runtime version",
    "xid": "CUDA error: an illegal memory access was encountered",
}
_CHILD_ENDED_S = 0.05


@dataclasses.dataclass
class Misbehaviour:
    """What is wrong with it.

    Attributes:
        health: The status that ``/health`` answers.
        hang_health: It does not answer at all.
        exit_at_start: It ends with that status before it serves; negative: by that signal. None: it serves.
        fail_starts: Only its first starts in the same folder do so; 0: all.
        slow_start_s: Seconds before it listens.
        crash_after_s: Seconds from its first answer to its end; None: it does not end.
        crash_at_request: The number of the completion, from 1, at which it ends; None: none.
        crash_code: With which status it ends then; 0 as vLLM does when its engine has died; negative: by that signal.
        say_cuda_error: An error of the driver's that it prints once it serves, by name.
        ignore_sigterm: SIGTERM does not end it.
        freeze_tokens: It makes no token any more, and says that it is well.
    """

    health: int = 200
    hang_health: bool = False
    exit_at_start: int | None = None
    fail_starts: int = 0
    slow_start_s: float = 0.0
    crash_after_s: float | None = None
    crash_at_request: int | None = None
    crash_code: int = 1
    say_cuda_error: str = ""
    ignore_sigterm: bool = False
    freeze_tokens: bool = False

    def update(self, told: dict[str, Any]) -> None:
        """Take fields over.

        Raises:
            ValueError: There is no such field.
        """
        for name, value in told.items():
            if name not in self.__dataclass_fields__:
                raise ValueError(f"no field {name!r}; there are {', '.join(self.__dataclass_fields__)}")
            setattr(self, name, value)


class Engine:
    """The engine of one process.

    Args:
        model: What requests call it.
        slots: Completions at once; the others wait.
        speed: Tokens a second, a stream.
        version: As it says.
        wrong: What is wrong with it.
    """

    def __init__(self, model: str, slots: int, speed: float, version: str, wrong: Misbehaviour) -> None:
        self._model = model
        self._slots = slots
        self._speed = speed
        self._version = version
        self._wrong = wrong
        self._free = asyncio.Semaphore(slots)
        self._running = 0
        self._numbers = itertools.count(1)
        self._thawed = asyncio.Event()
        self._freeze()

    async def answer(self, method: str, path: str, body: bytes) -> Answer:
        """The answer to one request.

        Raises:
            NotFound: There is no such page.
            ValueError: The request is wrong.
        """
        match method, path:
            case "GET", "/health":
                if self._wrong.hang_health:
                    await asyncio.Event().wait()
                return Answer(self._wrong.health, {"status": "ok" if self._wrong.health == 200 else "unwell"})  # noqa: PLR2004 - HTTP's
            case "GET", "/version":
                return Answer(200, {"version": self._version})
            case "GET", "/server_info":
                told = {"version": self._version, "model": self._model, "max_running_requests": self._slots}
                return Answer(200, {**told, "running": self._running, "pid": os.getpid()})
            case "GET", "/v1/models":
                return Answer(200, {"object": "list", "data": [{"id": self._model, "object": "model"}]})
            case "POST", "/v1/completions":
                return await self._completion(_object(body))
            case "POST", "/misbehave":
                self._misbehave(_object(body))
                return Answer(200, dataclasses.asdict(self._wrong))
        raise NotFound(path)

    async def _completion(self, ask: dict[str, Any]) -> Answer:
        if ask.get("model", self._model) != self._model:
            return Answer(404, {"error": {"message": f"the model {ask['model']!r} is not served here", "code": 404}})
        number = next(self._numbers)
        if number == self._wrong.crash_at_request:
            end(self._wrong.crash_code)
        prompt = ask.get("prompt", "")
        ids = prompt if isinstance(prompt, list) else [FIRST_BYTE + byte for byte in str(prompt).encode()]
        count = int(ask.get("max_tokens", 16))
        usage = {"prompt_tokens": len(ids), "completion_tokens": count, "total_tokens": len(ids) + count}
        about = {"id": f"cmpl-{number}", "object": "text_completion", "created": int(time.time()), "model": self._model}
        tokens = self._tokens(ids, count, int(ask.get("seed", 0)))
        if ask.get("stream"):
            return Answer(200, stream=self._events(tokens, about, usage, count))
        text = "".join([VOCABULARY[token] async for token in tokens])
        return Answer(200, {**about, "choices": [_choice(text, "length")], "usage": usage})

    async def _events(
        self, tokens: AsyncIterator[int], about: dict[str, Any], usage: dict[str, int], count: int
    ) -> AsyncIterator[bytes]:
        made = 0
        async for token in tokens:
            made += 1
            yield event({**about, "choices": [_choice(VOCABULARY[token], "length" if made == count else None)]})
        yield event({**about, "choices": [], "usage": usage})
        yield b"data: [DONE]\n\n"

    async def _tokens(self, ids: list[int], count: int, seed: int) -> AsyncIterator[int]:
        """The next tokens, on an absolute schedule, so that a slow reader does not slow the engine."""
        chain = Chain(seed, ids)
        async with self._free:
            self._running += 1
            try:
                loop = asyncio.get_running_loop()
                began = loop.time()
                for place in range(count):
                    await asyncio.sleep(max(0.0, began + (place + 1) / self._speed - loop.time()))
                    await self._thawed.wait()
                    yield chain.next()
            finally:
                self._running -= 1

    def _misbehave(self, told: dict[str, Any]) -> None:
        self._wrong.update(told)
        self._freeze()
        if told.get("say_cuda_error"):
            say(CUDA_ERRORS[told["say_cuda_error"]])
        if told.get("crash_after_s") is not None:
            asyncio.get_running_loop().call_later(told["crash_after_s"], end, self._wrong.crash_code)

    def _freeze(self) -> None:
        if self._wrong.freeze_tokens:
            self._thawed.clear()
        else:
            self._thawed.set()


def say(line: str) -> None:
    """One line of its log, whole."""
    os.write(2, f"{line}\n".encode())


def end(code: int) -> NoReturn:
    """End as nobody asked, at once: by a status, or by a signal where it is negative."""
    say(f"the engine ends: {code}")
    if code < 0:
        os.kill(os.getpid(), -code)
        signal.pause()  # a signal that is not the kernel's own takes effect on the way back from here
    os._exit(code)


def _object(body: bytes) -> dict[str, Any]:
    told = json.loads(body or b"{}")
    if not isinstance(told, dict):
        raise ValueError("the body is no JSON object")  # noqa: TRY004 - it is the client's
    return told


def _choice(text: str, reason: str | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}


def _fails_now(wrong: Misbehaviour) -> bool:
    """Whether this start is one of those that fail; they are counted in a file of the folder that it was started in."""
    if wrong.exit_at_start is None:
        return False
    file = Path("starts")
    before = int(file.read_text()) if file.exists() else 0
    file.write_text(str(before + 1))
    return wrong.fail_starts == 0 or before < wrong.fail_starts


def _engine_child() -> int:
    """A child that stands for vLLM's EngineCore: in a session of its own, alive when its parent is killed. Returns its pid."""
    read, write = os.pipe()  # closed by the child when it is what it is to be
    child = os.fork()
    if child == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.close(write)
        signal.pause()
        os._exit(0)
    os.close(write)
    os.read(read, 1)
    os.close(read)
    say(f"EngineCore runs: pid {child}")
    return child


def _watch(child: int) -> None:
    """End when the child has, with status 0, as vLLM 0.32 does."""
    loop = asyncio.get_running_loop()
    pidfd = os.pidfd_open(child)

    def gone() -> None:
        loop.remove_reader(pidfd)
        say("EngineCore died unexpectedly; shutting down")
        loop.call_later(_CHILD_ENDED_S, end, 0)

    loop.add_reader(pidfd, gone)


async def _serve(options: argparse.Namespace, wrong: Misbehaviour, child: int) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    if wrong.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        loop.add_signal_handler(signal.SIGTERM, stopping.set)
    if child:
        _watch(child)
    with contextlib.suppress(TimeoutError):  # loading takes that long, and can be called off
        await asyncio.wait_for(stopping.wait(), wrong.slow_start_s)
        return
    name = options.served or (Path(options.model).name if options.model else "sim")
    engine = Engine(name, options.slots, options.speed, options.version, wrong)
    serving = Serving(engine.answer)
    await serving.listen(options.host, options.port)
    say(f"serving {name} on http://{options.host}:{options.port}")
    if wrong.say_cuda_error:
        say(CUDA_ERRORS[wrong.say_cuda_error])
    if wrong.crash_after_s is not None:
        loop.call_later(wrong.crash_after_s, end, wrong.crash_code)
    for number in range(options.say_lines):
        say(f"line {number} of many")
    await stopping.wait()
    say("SIGTERM: no new requests; those that run are finished")
    await serving.finish()


def main(argv: list[str]) -> int:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="sim_engine", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", default="", help="a folder or a file; it has to be there")
    parser.add_argument("--served", default="", help="what requests call it; by default the model's last name")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--speed", type=float, default=200.0, help="tokens a second, a stream")
    parser.add_argument("--version", default=VERSION)
    parser.add_argument("--engine-child", action="store_true", help="have a child that outlives a SIGKILL")
    parser.add_argument("--say-lines", type=int, default=0, help="print that many lines")
    parser.add_argument("--exit-at-start", type=int, metavar="CODE")
    parser.add_argument(
        "--fail-starts", type=int, default=0, metavar="N", help="only the first N starts in this folder fail"
    )
    parser.add_argument("--slow-start-s", type=float, default=0.0)
    parser.add_argument("--unhealthy", dest="health", action="store_const", const=503, default=200)
    parser.add_argument("--hang-health", action="store_true")
    parser.add_argument("--crash-after-s", type=float)
    parser.add_argument("--crash-at-request", type=int)
    parser.add_argument("--crash-code", type=int, default=1)
    parser.add_argument("--say-cuda-error", default="", choices=["", *CUDA_ERRORS])
    parser.add_argument("--ignore-sigterm", action="store_true")
    options = parser.parse_args(argv)
    fields = Misbehaviour.__dataclass_fields__
    wrong = Misbehaviour(**{name: value for name, value in vars(options).items() if name in fields})
    if options.model:
        said = Path(options.model, "misbehave.json")
        if not Path(options.model).exists():
            say(f"OSError: {options.model} does not exist")
            return 1
        if said.exists():
            wrong.update(json.loads(said.read_text()))
    if wrong.exit_at_start is not None and _fails_now(wrong):
        say("RuntimeError: the engine's initialisation failed")
        end(wrong.exit_at_start)
    child = _engine_child() if options.engine_child else 0  # before there is a loop, which a fork would share
    asyncio.run(_serve(options, wrong, child))
    if child:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return 0
