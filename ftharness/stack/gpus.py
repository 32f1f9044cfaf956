"""Where engines run unless a scenario says it, and the GPUs that a launch profile gives each of them."""

from functools import cache
from pathlib import Path

from ftharness.gpu import NotEnoughGpus, StackGpus, check, inventory
from ftharness.stack.plan import NotAvailable
from ftharness.stack.profiles import Device, Profile
from ftharness.stack.topology import Topology


@cache  # to ask NVML may take a second or two for each GPU, and a machine has the GPUs that it has
def default_device() -> Device:
    """``gpu`` where there is one that we may use; else ``cpu``."""
    try:
        check(1, inventory())
    except NotEnoughGpus:
        return "cpu"
    return "gpu"


def gpus_for(profile: Profile, topology: Topology, folder: Path) -> StackGpus | None:
    """The GPUs of a stack's engines; None where the profile asks for none. Shadow engines have their worker's.

    Args:
        profile: Of each engine.
        topology: Of the stack.
        folder: Of the run.

    Raises:
        NotAvailable: The machine has fewer.
    """
    each = profile.resources.gpus
    if not each:
        return None
    shares = {name: each for name, _ in topology.members if not name.startswith("standby-")}
    try:
        return StackGpus(shares, folder)
    except NotEnoughGpus as error:
        raise NotAvailable(f"{len(shares)} of {profile.what}: {error}") from error
