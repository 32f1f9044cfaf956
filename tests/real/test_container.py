"""A pool whose engine runs in a real container: podman or docker, and an image that has ``/usr/local/bin/python3``."""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from ftharness.pool.config import BackoffConfig, ContainerConfig, ManagerConfig, MountConfig, PoolConfig, WarmupConfig
from ftharness.pool.manager import Manager
from ftharness.process.process_table import read_table

IMAGE = "FTHARNESS_TEST_IMAGE"
PROGRAM = shutil.which("podman") or shutil.which("docker")
#: Serves what it sees of itself.
SERVE = """
import http.server, json, os, sys

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        about = {"capabilities": status["CapEff"].strip(), "folder": os.getcwd(), "key": os.environ.get("API_KEY")}
        body = json.dumps(about).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

open("/work/mine", "w").write("x")
http.server.ThreadingHTTPServer((sys.argv[3], int(sys.argv[1])), Answer).serve_forever()
"""
SECRET = "topsecretvalue"  # noqa: S105 - of this test alone


def containers() -> str:
    """The names of all that there are, running or not."""
    assert PROGRAM is not None
    return subprocess.run(
        [PROGRAM, "ps", "--all", "--format", "{{.Names}}"], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.skipif(
    not os.environ.get(IMAGE), reason=f"{IMAGE} names no image with /usr/local/bin/python3; nothing is pulled"
)
@pytest.mark.skipif(PROGRAM is None, reason="needs podman or docker; `apt-get install podman` brings one")
async def test_an_engine_in_a_real_container(tmp_path: Path) -> None:
    """It serves at its port without capabilities, in its own folder; killed from outside it is started again; nothing is left."""
    app = tmp_path / "app"
    app.mkdir()
    (app / "serve.py").write_text(SERVE)
    pool = PoolConfig(
        id="boxed",
        engine="command",
        command=["/usr/local/bin/python3", "/app/serve.py", "{port}", "--host", "127.0.0.1"],
        env={"API_KEY": SECRET},
        container=ContainerConfig(image=os.environ[IMAGE], mounts=[MountConfig(source=str(app), target="/app")]),
        backoff=BackoffConfig(initial_s=0.1),
        warmup=WarmupConfig(requests=0),
        ready_timeout_s=60.0,
    )
    async with Manager(ManagerConfig(pools=[pool], state_dir=str(tmp_path / "state"))) as manager:
        about = await _about(manager)
        assert (about["capabilities"], about["folder"], about["key"]) == ("0" * 16, "/work", SECRET)
        assert (tmp_path / "state" / "work" / "boxed-1" / "mine").exists()
        (name,) = [word for word in containers().split() if word.endswith("-boxed-1")]
        lines = [Path(f"/proc/{entry.pid}/cmdline") for entry in read_table().values()]
        assert not [line for line in lines if line.exists() and SECRET.encode() in line.read_bytes()]
        lease = manager.registry.acquire("boxed")
        assert PROGRAM is not None
        killing = await asyncio.create_subprocess_exec(PROGRAM, "kill", name, stdout=subprocess.DEVNULL)
        await killing.wait()
        async with asyncio.timeout(60):
            while not manager.registry.engine("boxed-1").restarts:
                await asyncio.sleep(0.05)
        assert manager.registry.lease(lease.id).state == "revoked"
        await _about(manager)
    assert "-boxed-1" not in containers()


async def _about(manager: Manager) -> dict[str, Any]:
    """What the engine says of itself, once it is ready."""
    async with asyncio.timeout(60):
        await manager.until_ready("boxed")
    lease = manager.registry.acquire("boxed")
    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            return dict((await client.get(f"{lease.url}/health")).json())
    finally:
        manager.registry.release(lease.id)
