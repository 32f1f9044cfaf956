"""An engine's temporary files end with it, however it ends: real engines, which leave sockets and folders behind."""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftharness.pool.engine_process import EngineProcess
from ftharness.pool.engine_start import CannotStart, start
from ftharness.pool.scratch import make_scratch, remove_scratch
from ftharness.pool.slot import Slot

LEAVES = """
import os, signal, socket, sys, tempfile
from pathlib import Path
own = Path(tempfile.gettempdir())
socket.socket(socket.AF_UNIX).bind(str(own / "0ffa21d8-1bfd-4bd8-8d68-6f3e8d0f5f10"))
(own / "cache" / "deep").mkdir(parents=True)
(own / "cache" / "deep" / "file").write_text("x")
print(own, flush=True)
signal.pause()
"""
# A manager of one engine, which is killed.
MANAGER = """
import asyncio, sys
from pathlib import Path
from ftharness.pool.engine_start import start
from ftharness.pool.slot import Slot

async def main():
    slot = Slot(Path(sys.argv[1]), "pool-1", sys.argv[5])
    said = asyncio.Queue()
    await start(slot, [sys.executable, "-c", sys.argv[4]], environment={}, cwd="/", survive=sys.argv[3] == "survive", about={},
                on_line=said.put_nowait, scratch_in=sys.argv[2])
    print(slot.record().shim.pid, await said.get(), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def base() -> Iterator[Path]:
    """Where the folders are made, which is short, for sockets; nothing else is in it."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


async def _start(slot: Slot, base: Path) -> EngineProcess:
    said = asyncio.Event()
    words = [sys.executable, "-c", LEAVES]
    engine = await start(
        slot,
        words,
        environment={},
        cwd="/",
        survive=False,
        about={},
        on_line=lambda _: said.set(),
        scratch_in=str(base),
    )
    await said.wait()
    return engine


async def test_it_is_a_folder_of_its_own_and_goes_with_the_engine(slot: Slot, base: Path) -> None:
    """Nobody else may look into it; when nothing of the engine is left, neither it nor the link to it is."""
    engine = await _start(slot, base)
    (own,) = base.iterdir()
    assert engine.tail() == [str(own)]
    assert own.stat().st_mode & 0o777 == 0o700
    assert len(list(own.iterdir())) == 2
    await engine.stop(grace_s=20)
    assert list(base.iterdir()) == []
    assert not (slot.folder / "tmp").is_symlink()


async def test_it_goes_where_the_shim_is_killed(slot: Slot, base: Path) -> None:
    """Then its manager removes it, when it has seen that nothing is left."""
    engine = await _start(slot, base)
    record = slot.record()
    assert record is not None
    os.kill(record.shim.pid, signal.SIGKILL)
    await engine.gone()
    assert list(base.iterdir()) == []


@pytest.mark.parametrize("mode", ["die", "survive"])
async def test_it_goes_where_the_manager_is_killed(slot: Slot, base: Path, tmp_path: Path, mode: str) -> None:
    """By the shim's doing where the engine dies with it; where both are killed, by the next manager's."""
    slot.make()
    words = [sys.executable, "-c", MANAGER, str(slot.folder), str(base), mode, LEAVES, tmp_path.as_posix()]
    manager = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    try:
        assert manager.stdout is not None
        shim, own = (await manager.stdout.readline()).decode().split()
        assert Path(own).parent == base
    finally:
        manager.kill()
        await manager.wait()
    if mode == "survive":
        assert Path(own).is_dir()
        os.kill(int(shim), signal.SIGKILL)
    assert await slot.wait_until_free(10)
    if mode == "survive":
        await slot.sweep()
    assert list(base.iterdir()) == []


async def test_what_an_earlier_engine_left_is_removed_before_the_next_has_its_own(slot: Slot, base: Path) -> None:
    """Also where everybody was killed between the link and the folder."""
    slot.make()
    earlier = make_scratch(str(slot.folder), str(base))
    (earlier / "file").write_text("x")
    assert make_scratch(str(slot.folder), str(base)) != earlier
    (own,) = base.iterdir()
    own.rmdir()
    remove_scratch(str(slot.folder))
    assert not (slot.folder / "tmp").is_symlink()


async def test_a_place_where_none_can_be_made_is_named(slot: Slot, base: Path) -> None:
    """The error says where, and nothing is started."""
    with pytest.raises(CannotStart, match=f"{base}/none/ft-.*No such file or directory"):
        await start(slot, ["true"], environment={}, cwd="/", survive=False, about={}, scratch_in=str(base / "none"))
    assert await slot.wait_until_free(5)


async def test_a_link_in_its_place_costs_nobody_anything(slot: Slot, base: Path, tmp_path: Path) -> None:
    """An engine that puts a link to another folder where its own was has nothing there removed."""
    slot.make()
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious").write_text("x")
    own = make_scratch(str(slot.folder), str(base))
    own.rmdir()
    own.symlink_to(other)
    remove_scratch(str(slot.folder))
    assert (other / "precious").exists()
