"""The GPUs of one stack: reserved before its processes start, shared out among them, looked at when they are gone."""

from collections.abc import Collection, Mapping
from pathlib import Path

from ftharness.gpu.inventory import Device, Inventory, inventory
from ftharness.gpu.nvidia_smi import keep
from ftharness.gpu.reservation import Reservation, check, reserve
from ftharness.gpu.visible import VARIABLE
from ftharness.gpu.watch import SETTLE_S, Held, Kept, Watch


class StackGpus:
    """What a plan says of GPUs. It is made while the stack is planned, and reserves nothing before :meth:`before`.

    Args:
        shares: How many whole GPUs each process has, by its name; shadow engines that share a worker's, by that worker's.
        run: The run's folder, where ``nvidia-smi.txt`` is kept.
        there: What there is; None: ask NVML.
        deadline_s: Seconds to wait at most for others to let GPUs go.
        settle_s: Seconds for memory to come back when the stack is gone.

    Raises:
        NotEnoughGpus: There are fewer than that, whoever has them.
    """

    def __init__(
        self,
        shares: Mapping[str, int],
        run: Path,
        *,
        there: Inventory | None = None,
        deadline_s: float = 600.0,
        settle_s: float = SETTLE_S,
    ) -> None:
        self._shares = dict(shares)
        self._run = run
        self._there = inventory() if there is None else there
        self._deadline_s = deadline_s
        self._settle_s = settle_s
        self._reservation: Reservation | None = None
        self._watch: Watch | None = None
        self._variables: dict[str, dict[str, str]] = {}
        check(self._count, self._there)

    @property
    def _count(self) -> int:
        return sum(self._shares.values())

    @property
    def devices(self) -> tuple[Device, ...]:
        """Those that are reserved; none before :meth:`before`, and after :meth:`close`."""
        return () if self._reservation is None else self._reservation.devices

    async def before(self) -> None:
        """Reserve them, and look at what is in use on them. To be called before anything is started.

        Raises:
            NoGpus: Others have had them for all of the time that there was, or they cannot be reserved or asked any more.
            OSError: The run's folder cannot be written.
        """
        self._reservation = await reserve(self._count, run=self._run, deadline_s=self._deadline_s, there=self._there)
        self._variables = self._reservation.split(self._shares)
        self._watch = Watch(self.devices)
        await keep(self._run, f"before the launch; reserved: {'; '.join(str(one) for one in self.devices)}")

    def variables(self, name: str, group: str = "") -> Mapping[str, str]:
        """By which a process sees its GPUs and no other; one that has none sees none.

        Args:
            name: The process's.
            group: Of shadow engines, the worker's with which it shares.
        """
        return self._variables.get(name) or self._variables.get(group) or {VARIABLE: ""}

    def held(self, pids: Collection[int]) -> list[Held]:
        """What processes that outlived their stop have on the GPUs. To be asked before they are killed."""
        return [] if self._watch is None else self._watch.held(pids)

    async def after(self) -> list[Kept]:
        """Wait for the memory to come back; where it did not. To be asked when everything has been killed."""
        if self._watch is None:
            return []
        try:
            return await self._watch.kept(settle_s=self._settle_s)
        finally:
            await keep(self._run, "after the stack's end")

    def close(self) -> None:
        """Let the GPUs go; nothing happens the second time."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()
        if self._reservation is not None:
            self._reservation.close()
            self._reservation = None
