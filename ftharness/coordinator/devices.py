"""Which device each worker sees."""

import contextlib
import os
import threading
from collections.abc import Iterator

VARIABLE = "CUDA_VISIBLE_DEVICES"
_ENVIRONMENT = threading.Lock()


def masks(world_size: int) -> list[str]:
    """The mask of each of so many workers: of the devices that this process itself may see, the one in its place.

    Where all devices are hidden from this process (by an empty mask, or ``-1`` first), they are from workers, too.

    Raises:
        ValueError: There is a mask, and it has fewer devices than there are workers.
    """
    with _ENVIRONMENT:
        mask = os.environ.get(VARIABLE)
    if mask is None:
        return [str(rank) for rank in range(world_size)]
    words = [word.strip() for word in mask.split(",")]
    if not words[0] or words[0].startswith("-") or words[0] == "NoDevFiles":
        return [mask] * world_size
    if len(words) < world_size:
        raise ValueError(
            f"{world_size} workers, and {VARIABLE}={mask} has {len(words)}: one device a worker, or no mask at all"
        )
    return words[:world_size]


@contextlib.contextmanager
def seen_as(mask: str | None) -> Iterator[None]:
    """For what is started within: a process has its environment from its parent at exec, so before it has imported anything.

    The environment is the whole process's: what another of its threads starts meanwhile would have the mask as well. It is
    that of one call of ``Process.start()``. None: as this process itself.
    """
    if mask is None:
        yield
        return
    with _ENVIRONMENT:
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = mask
        try:
            yield
        finally:
            if before is None:
                del os.environ[VARIABLE]
            else:
                os.environ[VARIABLE] = before
