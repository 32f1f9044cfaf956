"""An engine's start, in its steps: staged, prepared, spawned. And how it is known again by the next manager."""

import asyncio
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from ftharness.pool.adoption import take_over
from ftharness.pool.engine_process import EngineProcess, OnLine
from ftharness.pool.engine_start import CannotStart, start
from ftharness.pool.house import House
from ftharness.pool.pool_model import PoolModel, fingerprint
from ftharness.pool.preparation import PrepareError, prepare
from ftharness.pool.prepared import PreparedEngine
from ftharness.pool.privileges import PrivilegesError, make_workdir, privileges
from ftharness.pool.slot import Slot, SlotHeld
from ftharness.pool.staging import StagingError

#: What a start may come to instead: each says why.
NOT_STARTED: Final = (StagingError, PrepareError, CannotStart, SlotHeld, PrivilegesError, OSError)
_CONTAINER_S = 30.0


async def launch(
    model: PoolModel, engine_id: str, slot: Slot, house: House, on_line: OnLine
) -> tuple[EngineProcess, PreparedEngine]:
    """Start an engine: its model is staged, its command prepared, its process runs.

    Raises:
        StagingError: Its model cannot be had.
        PrepareError: It cannot be started as it is configured.
        CannotStart: It cannot be executed.
        SlotHeld: Of the engine before it something is left.
        PrivilegesError: It cannot run as whom it should.
        OSError: A folder of its own cannot be made, or where it would be is not the manager's any more.
    """
    registry = house.registry
    house.check_state()
    registry.engine_state(engine_id, "staging")
    staged = await model.staged()
    registry.engine_state(engine_id, "preparing")
    prepared = prepare(model.config, staged, engine_id, devices=registry.devices, state_dir=house.state_dir)
    if slot.is_held():
        await _clear(slot)
    await stop_container(prepared)
    if prepared.advisory:
        model.advise(prepared.advisory)
    # Of the pool's configuration: what is prepared for a container names the user in the container's arguments.
    rights = privileges(model.config.user)
    make_workdir(Path(prepared.workdir), rights)
    registry.engine_state(engine_id, "starting")
    engine = await start(
        slot,
        prepared.argv,
        environment=prepared.env,
        cwd=prepared.workdir,
        survive=house.survive,
        about=_about(model, prepared, engine_id, house),
        on_line=on_line,
        # A container's program has its own ways, which need root's: what runs inside has none of its rights.
        privileges=None if prepared.container else rights.plain(),
        scratch_in="" if prepared.container or "TMPDIR" in prepared.env else tempfile.gettempdir(),
    )
    return engine, prepared


def remembered(about: Mapping[str, Any], model: PoolModel, engine_id: str, house: House) -> PreparedEngine | None:
    """How an engine was started that an earlier manager had; None: it is not the one that is wanted now."""
    wanted = {"fingerprint": _fingerprint(model, engine_id, house), "configured": model.configured}
    if any(about.get(name) != value for name, value in wanted.items()):
        return None
    try:
        return msgspec.convert(about["prepared"], PreparedEngine)
    except (msgspec.ValidationError, KeyError):  # another version's
        return None


async def stop_container(prepared: PreparedEngine) -> None:
    """End the container that an engine may have left; nothing happens where it runs in none.

    Raises:
        CannotStart: It does not end.
    """
    if not prepared.stop:
        return
    stopping = await asyncio.create_subprocess_exec(
        *prepared.stop, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(_CONTAINER_S):
            await stopping.wait()
    except TimeoutError:
        stopping.kill()
        await stopping.wait()
        raise CannotStart(f"`{' '.join(prepared.stop)}` did not end within {_CONTAINER_S:g} s") from None


async def _clear(slot: Slot) -> None:
    """One that an earlier manager's shim started in its last moment, after we had looked."""
    found = await take_over(slot)
    if found.engine is not None:
        await found.engine.stop(0)
        found.engine.close()


def _about(model: PoolModel, prepared: PreparedEngine, engine_id: str, house: House) -> dict[str, Any]:
    """What the next manager has to know; what may be secret is not needed."""
    known = msgspec.structs.replace(prepared, env={}, args=())
    return {
        "fingerprint": _fingerprint(model, engine_id, house),
        "configured": model.configured,
        "model": model.reference,
        "prepared": msgspec.to_builtins(known),
    }


def _fingerprint(model: PoolModel, engine_id: str, house: House) -> str:
    return fingerprint(model.config, house.registry.engine(engine_id).mask.uuids)
