"""The gateway as a process: its command line, its log as the contract reads it, and its end."""

import asyncio
import json
import signal
import sys
from typing import Any

import httpx

from ftharness.engine.tokens import decode, encode, generate
from ftharness.logs import Scanner, load_contract

PROMPT = "Once upon a time"


async def test_a_gateway_that_is_told_to_end_finishes_what_runs(engines: list[Any]) -> None:
    """SIGTERM in mid-stream, and a worker lost after it: the answer is whole, the status 0, and the contract knows every step."""
    for engine in engines:
        engine.pace_s = 0.002
    workers = [part for one in engines for part in ("--worker", f"{one.name}=http://127.0.0.1:{one.port}")]
    argv = ["-m", "ftharness.engine.gateway", "--model", "tiny", "--migration-limit", "1", *workers]
    process = await asyncio.create_subprocess_exec(sys.executable, *argv, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    scanner = Scanner(load_contract("sim", "0"))
    seen: list[tuple[str, dict[str, str]]] = []
    try:
        while [name for name, _ in seen].count("worker_joined") < 2:
            data = await process.stderr.read(4096)
            assert data, "it ended"
            seen += [(match.event, dict(match.captures)) for match in scanner.feed(data, 0)]
        port = next(told["port"] for name, told in seen if name == "listening")
        engines[0].breaks("die", 20)
        body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 40, "stream": True}
        text = ""
        async with (
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
            client.stream("POST", "/v1/completions", json=body, headers={"x-request-id": "story"}) as answer,
        ):
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    if not text:
                        process.send_signal(signal.SIGTERM)
                    text += json.loads(line[6:])["choices"][0]["text"]
        assert text == decode(generate(0, encode(PROMPT), 40))
        seen = [(match.event, dict(match.captures)) for match in scanner.feed(await process.stderr.read(), 0)]
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    steps = [
        told for told in seen if told[0] != "worker_left"
    ]  # which may be noticed before the request's loss or after it
    first, then = steps[0][1].pop("worker"), steps[2][1].pop("worker")
    assert {first, then} == {"worker-1", "worker-2"}
    assert steps[1][1].pop("error").startswith(f"Disconnected: worker {first}: ")
    assert steps == [
        ("request_routed", {"request": "story", "attempt": "0"}),
        ("migration_started", {"request": "story"}),
        ("request_routed", {"request": "story", "attempt": "1"}),
        ("request_completed", {"request": "story", "status": "success", "tokens": "40"}),
    ]
    assert ("worker_left", {"worker": first, "running": "0"}) in seen
