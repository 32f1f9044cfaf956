"""How a topology is deployed on a cluster, as data: what ``--stack FILE.toml`` says, or the options of ``k8s render``."""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from ftharness.logs import read_toml
from ftharness.suggest import nearest

#: The engines and Dynamo's names for them: its module, and its image.
ENGINES = {"vllm": "vllm-runtime", "sglang": "sglang-runtime", "trtllm": "tensorrtllm-runtime"}
#: Dynamo's release whose images are the default.
RELEASE = "1.4.2"


class Deployment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where and as what a topology runs.

    Attributes:
        kind: ``k8s``: by it a stack's file is known to be one of these.
        namespace: In which everything stays; it has to exist.
        context: Of the kubeconfig; "" is its current one.
        kubeconfig: Its path; "" is ``$KUBECONFIG``, ``~/.kube/config``, or a pod's service account.
        image: Of the workers; "" is Dynamo's own of the engine.
        frontend_image: "" is the workers'.
        model: As the engine is told it, and as requests name it.
        gpus: A worker's; 0 asks for none.
        failover: Whether each worker is an active engine and a shadow that share the GPUs' memory.
        secret: A secret whose keys become environment variables, such as ``HF_TOKEN``; "" for none. Its values are not read.
        worker_command: "" is Dynamo's own: ``python3 -m dynamo.ENGINE``.
        worker_args: More arguments of each worker.
        frontend_command: The same of the frontend.
        frontend_args: The same.
        environment: More variables of both. Not for secrets: they stand in the manifest.
        cpu: A worker's request, such as ``"4"``; "" for none.
        memory: The same, such as ``"16Gi"``.
        contract: What the workers' log lines mean: a shipped contract's name, or a ``.toml`` beside the file; "" is the engine's.
        frontend_contract: The same of the frontend.
        version: Of what runs, for its contract; "" is the image's tag.
        behaviour: Documented behaviour, as data, where scenarios ask for it: ``migration_exhausted_stream = 500``.
        port: The frontend's, in its pod.
        init: Whether a small first process stands above each engine. Without one the engine is process 1 of its container, to
            which the kernel delivers no SIGKILL and no SIGSTOP from inside.
        termination_grace_s: Seconds that the pods get to end.
        start_s: Seconds until each container must run: scheduling and pulling images.
    """

    kind: Literal["k8s"] = "k8s"
    namespace: str = "ftharness"
    context: str = ""
    kubeconfig: str = ""
    image: str = ""
    frontend_image: str = ""
    model: Annotated[str, msgspec.Meta(min_length=1)] = "Qwen/Qwen3-0.6B"
    gpus: int = 1
    failover: bool = False
    secret: str = ""
    worker_command: list[str] = []
    worker_args: list[str] = []
    frontend_command: list[str] = []
    frontend_args: list[str] = []
    environment: dict[str, str] = {}
    cpu: str = ""
    memory: str = ""
    contract: str = ""
    frontend_contract: str = "dynamo"
    version: str = ""
    behaviour: dict[str, Any] = {}
    port: int = 8000
    init: bool = True
    termination_grace_s: int = 30
    start_s: float = 600.0

    def image_of(self, engine: str) -> str:
        """The workers' image."""
        return self.image or f"nvcr.io/nvidia/ai-dynamo/{ENGINES[engine]}:{RELEASE}"

    def version_of(self, engine: str) -> str:
        """The version of what runs: as said, or the tag of the image; "" where it has none."""
        if self.version:
            return self.version
        name = self.image_of(engine).partition("@")[0].rpartition("/")[2]  # a registry's port is no tag
        return name.partition(":")[2]


def read_deployment(path: Path) -> Deployment:
    """What a stack's file says.

    Raises:
        TomlError: It is wrong; says where.
    """
    return read_toml(path, Deployment)


def checked_engine(engine: str) -> str:
    """``engine``, where Dynamo has it.

    Raises:
        LookupError: It has not; names the nearest.
    """
    if engine not in ENGINES:
        raise LookupError(f"no engine {engine!r}; {nearest(engine, ENGINES)}")
    return engine
