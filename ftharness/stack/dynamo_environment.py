"""The environment in which Dynamo runs here: discovery in a folder, everything on loopback, logs that can be read."""

import os
from collections.abc import Mapping
from pathlib import Path

#: Targets whose debug lines the contracts read. The rest of them is one line a token (the mocker), or megabytes.
_DEBUG = (
    "dynamo_llm::migration",
    "dynamo_llm::discovery",
    "dynamo_llm::http",
    "dynamo_runtime::pipeline::network",
    "dynamo_runtime::utils",
    "handlers",  # Dynamo's Python workers of real engines
)
#: What a developer's shell may hold for another stack, and what would split this one.
_NOT_OURS = ("DYN_NAMESPACE", "DYN_NAMESPACE_PREFIX", "DYN_SYSTEM_PORT", "DYN_TCP_RPC_PORT", "NATS_SERVER")


def dynamo_environment(store: Path, inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The inherited environment, with what keeps a stack of Dynamo's to itself.

    Args:
        store: The folder of the stack's discovery; nobody else's.
        inherited: Ours, or that of an environment of an engine's.
    """
    kept = {name: value for name, value in inherited.items() if name not in _NOT_OURS}
    return kept | {
        "DYN_DISCOVERY_BACKEND": "file",
        "DYN_FILE_KV": str(store),
        "DYN_REQUEST_PLANE": "tcp",
        "DYN_EVENT_PLANE": "zmq",
        # A worker listens on every interface with each kind of event, unless it is told of a broker, to which it would
        # connect. This one does not exist: with round-robin routing, nobody listens to events.
        "DYN_ZMQ_BROKER_URL": "xsub=inproc://nobody , xpub=inproc://nobody",
        "DYN_EVENT_PLANE_HOST": "127.0.0.1",
        "DYN_TCP_RPC_HOST": "127.0.0.1",
        # The name of an interface: given an address, 1.4 logs 'Interface not found' and never lists the model.
        "DYN_TCP_RESPONSE_STREAM_HOST": "lo",
        "DYN_SYSTEM_HOST": "127.0.0.1",
        "DYN_HEALTH_CHECK_ENABLED": "false",  # its canaries are requests that nobody sent
        "DYN_SDK_DISABLE_ANSI_LOGGING": "1",
        "DYN_LOG": ",".join(["info", *(f"{target}=debug" for target in _DEBUG)]),
        # Otherwise every process leaves a file in the folder for temporary ones, for an SGLang that is not here.
        "DYN_SKIP_SGLANG_LOG_FORMATTING": "1",
        "HF_HUB_OFFLINE": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "PYTHONUNBUFFERED": "1",
    }
