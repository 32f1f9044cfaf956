"""Real engines, in environments that ``ftharness provision`` made. FTHARNESS_TEST_REAL=1 asks for them: they take minutes.

Where they are asked for, an environment that is not there is a failure, and says which command makes it.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from ftharness.history import History
from ftharness.process import PortReservation, Processes, http_ok, until_ready
from ftharness.stack.provision import Environment, environment
from ftharness.stack.provision_model import make_tiny_model

ASKED_FOR = "FTHARNESS_TEST_REAL"
READY_S = 240  # 16 to 23 s alone on two cores; several times that beside other work
STOPS_S = 30

Serve = Callable[..., Awaitable[str]]


@pytest.fixture
def provisioned() -> Callable[[str], Environment]:
    """The environment of a spec."""
    if os.environ.get(ASKED_FOR) != "1":
        pytest.skip(f"not applicable: real engines take minutes; {ASKED_FOR}=1 runs them")

    def find(spec: str) -> Environment:
        found = environment(spec)
        if found is None:
            pytest.fail(f"{spec} is not provisioned; `ftharness provision {spec}`", pytrace=False)
        return found

    return find


@pytest.fixture
async def serve(provisioned: Callable[[str], Environment], tmp_path: Path) -> AsyncIterator[Serve]:
    """Start a program of an environment's ``bin`` that serves HTTP, with these arguments; gives its URL when it answers."""
    history = History()
    async with Processes(history, tmp_path) as processes:

        async def start(found: Environment, name: str, *arguments: str, **env: str) -> str:
            with PortReservation() as reserved:
                port = reserved.port
                argv = [str(found.python.parent / arguments[0]), *arguments[1:], "--port", str(port)]
                variables = found.variables(os.environ) | env
                process = await processes.start(name, argv, env=variables, cwd=tmp_path, ports={"http": port})
                url = f"http://127.0.0.1:{port}"
                await until_ready(process, http_ok(f"{url}/health"), history=history, deadline_s=READY_S)
            return url

        yield start
        await processes.stop(*processes, grace_s=STOPS_S)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The folder of the tiny model of so many layers."""
    return lambda layers: make_tiny_model(layers, 0, lambda _: None)
