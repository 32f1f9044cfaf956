"""Worker groups: a worker and the shadow engines that share its weights, beside one failover lock.

Who belongs to whom is in the names, so that a history tells it, too: of ``workers`` groups ``worker-1``, ``worker-2``, …, each
named for its worker, ``standby-1`` belongs to the first, ``standby-2`` to the second, and so on, round and round.
"""

from pathlib import Path

from ftharness.stack.fresh import fresh_folder
from ftharness.stack.topology import Topology

_STANDBY = "standby"


def group_of(name: str, groups: int) -> str:
    """The group of a process, by its name; "" where it is in none.

    Args:
        name: The process's.
        groups: How many there are; 0: workers without standbys, which are in none.
    """
    kind, _, number = name.rpartition("-")
    if not groups or kind not in ("worker", _STANDBY) or not number.isdecimal() or int(number) < 1:
        return ""
    return f"worker-{(int(number) - 1) % groups + 1}"


def is_standby(name: str) -> bool:
    """Whether a process has the name of a standby, be it one that is started only during the run."""
    return name.rpartition("-")[0] == _STANDBY


class Groups:
    """The groups of one launched stack: what each member is told, and the names of those that join.

    Args:
        topology: How many there are of each.
        folder: The scenario's; each launch has a folder of its own in it, and each group one in that.
    """

    def __init__(self, topology: Topology, folder: Path) -> None:
        self._count = topology.workers if topology.standbys else 0
        self._names = [name for name, _ in topology.members]
        self._heartbeat_s = topology.heartbeat_s
        self._folder = fresh_folder(folder.absolute(), "failover") if self._count else folder

    def __bool__(self) -> bool:
        """Whether there are standbys."""
        return bool(self._count)

    def of(self, name: str) -> str:
        """The group of a member; "" without standbys."""
        return group_of(name, self._count)

    def told(self, name: str) -> dict[str, str]:
        """What a member's environment says of its group: Dynamo's two names, and ours for the heartbeat. Makes its folder.

        Raises:
            OSError: The folder cannot be made.
        """
        group = self.of(name)
        if not group:
            return {}
        place = self._folder / group
        place.mkdir(exist_ok=True)
        kind, _, number = name.rpartition("-")
        engine = (int(number) - 1) // self._count + 1 if kind == _STANDBY else 0
        told = {"FAILOVER_LOCK_PATH": str(place / "lock"), "ENGINE_ID": str(engine)}
        return told | ({} if self._heartbeat_s is None else {"FAILOVER_HEARTBEAT_S": f"{self._heartbeat_s:g}"})

    def joins(self, group: str) -> str:
        """The name of one more standby of a group; nobody had it before."""
        number = int(group.rpartition("-")[2])
        while (name := f"{_STANDBY}-{number}") in self._names:
            number += self._count
        self._names.append(name)
        return name
