"""Names that Kubernetes, Dynamo's operator and we agree upon. Dynamo's stand in deploy/operator/internal/consts/consts.go."""

import re
import uuid

GROUP_VERSION = "nvidia.com/v1alpha1"
KIND = "DynamoGraphDeployment"
PLURAL = "dynamographdeployments"

#: On everything that we apply; by these, and by its owner, a guard knows what is ours.
MANAGED_BY, US = "app.kubernetes.io/managed-by", "ftharness"
RUN = "ftharness/run"

#: What the operator writes on the pods of a deployment.
GRAPH = "nvidia.com/dynamo-graph-deployment-name"
COMPONENT = "nvidia.com/dynamo-component"

#: One discovery entry a container, without which the operator refuses failover.
DISCOVERY_MODE = "nvidia.com/dynamo-kube-discovery-mode"

#: The container that the operator makes of ``mainContainer``; with failover it makes these of it.
MAIN = "main"
ENGINES = ("engine-0", "engine-1")

# A label's value, and, as the operator makes names of it that Grove bounds (45 in all), a deployment's name.
_RUN = re.compile(r"[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?")


def new_run() -> str:
    """A name for a run that no other has."""
    return uuid.uuid4().hex[:12]


def checked_run(run: str) -> str:
    """``run``, where it can be part of a name.

    Raises:
        ValueError: It cannot; says what can.
    """
    if not _RUN.fullmatch(run):
        raise ValueError(
            f"the run's name {run!r}: it is at most 20 of a-z, 0-9 and -, and neither begins nor ends with a dash"
        )
    return run


def deployment_name(run: str) -> str:
    """The deployment's name."""
    return f"ft-{run}"
