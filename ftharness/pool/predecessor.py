"""What an earlier manager left, as a manager begins: its engines go on or are ended, and so do the leases on them."""

import asyncio
import logging
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path

from ftharness.pool.adoption import StateFolder, clear, take_over
from ftharness.pool.house import House
from ftharness.pool.lease_file import LeaseFile, read
from ftharness.pool.leases import NotKept
from ftharness.pool.pool_engines import PoolEngines

_LOG = logging.getLogger(__name__)


async def take_over_engines(state: StateFolder, pools: Collection[PoolEngines], house: House) -> dict[str, str]:
    """Engines that run are given to their supervisors, or ended where nobody wants them.

    Args:
        state: Where they are found.
        pools: Who wants which.
        house: Who is told.

    Returns:
        Of those that are not there any more, why.

    Raises:
        SlotHeld: One is left that nobody wants, and cannot be ended.
        OSError: What there is cannot be told.
    """
    gone: dict[str, str] = {}
    wanted = {engine_id: pool for pool in pools for engine_id in pool.supervisors}
    for slot in state.slots():
        if slot.engine_id not in wanted:
            gone[slot.engine_id] = "no pool of the configuration has it"
            pid = await clear(slot, 0)
            if pid:
                _LOG.warning("%s (pid %d) was ended: no pool of the configuration has it", slot.engine_id, pid)
    ends = await asyncio.gather(*(_take_over_engine(engine_id, pool, house) for engine_id, pool in wanted.items()))
    return gone | {engine_id: why for engine_id, why in zip(wanted, ends, strict=True) if why is not None}


async def _take_over_engine(engine_id: str, pool: PoolEngines, house: House) -> str | None:
    """Why it is not there any more; None: it is, and has its supervisor."""
    supervisor = pool.supervisors[engine_id]
    about = {"pool_id": pool.model.config.id, "engine_id": engine_id}
    found = await take_over(supervisor.slot, supervisor.line)
    if found.engine is None:
        if found.pid:
            house.log.event("engine_gone", **about, pid=found.pid, reason=found.reason)
        return found.reason
    if supervisor.adopt(found.engine):
        reference = str(found.engine.about.get("model", ""))
        if reference != pool.model.reference:  # by a reload
            pool.model = pool.model.other(reference)
        house.log.event("engine_adopted", **about, pid=found.engine.pid)
        return None
    why = "it was started with another configuration"
    how = await found.engine.stop(pool.model.config.stop_grace_s)
    found.engine.close()
    house.log.event("engine_stopped", **about, exit=str(how), reason=why)
    return why


def take_over_leases(path: Path, gone: Mapping[str, str], house: House, end: ExitStack) -> None:
    """Leases go on with their engines, whoever granted them; written down are those that can outlive this manager, too.

    Args:
        path: Where they are written.
        gone: Of engines that are not there any more, why.
        house: Whose registry gets them.
        end: Ends the writing.

    Raises:
        OSError: What is written cannot be read.
    """
    registry = house.registry
    found = read(path)
    if found.unreadable:
        _advise(house, f"{path}: {found.unreadable} lines are half written; what they said of a lease is lost")
    registry.take_over(found.held, found.over, gone)
    for pool in registry.pools():
        for one in pool.engines.values():
            if one.slots and len(one.leases) > one.slots:
                more = f"{one.id} was adopted with {len(one.leases)} leases, and has {one.slots} slots now"
                _advise(house, f"{more}: it gets no more until so many have ended", pool.id, one.id)
    if not house.survive:
        path.unlink(missing_ok=True)
        return
    file = LeaseFile(path, lambda reason: _advise(house, reason))
    end.callback(file.close)
    end.callback(registry.keep, None)
    try:
        registry.keep(file)
    except NotKept as error:
        _advise(house, f"{error}: no leases are granted as long as they cannot be written down")


def _advise(house: House, reason: str, pool_id: str = "", engine_id: str = "") -> None:
    house.log.event("advisory", pool_id=pool_id, engine_id=engine_id, reason=reason)
