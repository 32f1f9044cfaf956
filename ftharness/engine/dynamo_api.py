"""What our worker says to Dynamo's Python worker API: the one place that knows it, and where its releases differ."""

import contextlib
import os.path
import sys
from typing import TYPE_CHECKING, Any

from ftharness import failover

if TYPE_CHECKING:
    from ftharness.engine.shadow import Elect

_GENERATE = "dynamo.backend.generate"
#: Where a worker of each role serves, as Dynamo's own workers do: those that prefill are a component of their own.
ENDPOINTS = {"aggregated": _GENERATE, "prefill": "dynamo.prefill.generate", "decode": _GENERATE}
#: The role without which one of that role serves nobody.
_NEEDS = {"prefill": "decode", "decode": "prefill"}


async def register(endpoint: Any, role: str, model_path: str, model: str) -> None:
    """Announces the model, and what a worker of that role does of a request.

    Raises:
        ImportError: No dynamo, or one whose worker API is another.
    """
    from dynamo import llm  # noqa: PLC0415  no dynamo is a message of ours, not a traceback

    announce = getattr(llm, "register_model", None) or llm.register_llm
    # No client asks a prefill worker: what it serves is no API.
    kinds = llm.ModelType.Prefill if role == "prefill" else llm.ModelType.Chat | llm.ModelType.Completions
    await announce(llm.ModelInput.Tokens, kinds, endpoint, model_path, model, **_stage(llm, role))


def _stage(llm: Any, role: str) -> dict[str, Any]:
    """Required from the release on that has it; those before told a worker's role from its kinds alone."""
    if not hasattr(llm, "WorkerType"):
        return {}
    stage = {"worker_type": getattr(llm.WorkerType, role.capitalize())}
    return stage | ({"needs": [[getattr(llm.WorkerType, _NEEDS[role].capitalize())]]} if role in _NEEDS else {})


def elsewhere(reason: str) -> Exception:
    """What a worker raises when a request cannot go on in it, but might in another.

    Of all that a worker can raise, this alone makes the frontend try another one (lib/llm/src/migration.rs).
    """
    from dynamo.llm.exceptions import EngineShutdown  # noqa: PLC0415  see register

    shutdown: Exception = EngineShutdown(reason)
    return shutdown


def log_as_dynamo() -> None:
    """Has all that is logged in this process written as Dynamo's workers do."""
    with contextlib.suppress(ImportError):  # no dynamo: that is said when it is needed
        from dynamo.runtime.logging import configure_dynamo_logging  # noqa: PLC0415  see register

        configure_dynamo_logging()


def election() -> "Elect | None":
    """Dynamo's own code of the election and the waking, which takes the lock from ``gpu_memory_service``; None before 1.5.

    No public package provides that name. Where nothing else does, the stand-in over our lock is found from now on.
    """
    try:
        from dynamo.common.snapshot.lifecycle import elect_and_wake  # noqa: PLC0415  see register
    except ImportError:
        return None
    sys.path.append(os.path.join(next(iter(failover.__path__)), "gms"))  # noqa: PTH118  pathlib costs 10 ms
    elect: Elect = elect_and_wake
    return elect
