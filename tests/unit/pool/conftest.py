"""A slot for tests of what runs in one."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ftharness.pool.slot import Slot


@pytest.fixture
async def slot(tmp_path: Path) -> AsyncIterator[Slot]:
    """A slot in a folder of its own; nothing of it is left behind."""
    slot = Slot(tmp_path / "slot", "pool-1", tmp_path.as_posix())
    yield slot
    if not await slot.wait_until_free(0.5):
        await slot.evict()
    await slot.sweep()
