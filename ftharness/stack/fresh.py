"""A folder of its own for each launch: what one that failed left behind is not to be found by the next."""

from pathlib import Path


def fresh_folder(parent: Path, name: str) -> Path:
    """Makes ``name`` in ``parent``; where that is there already, ``name-2``, and so on.

    Raises:
        OSError: It cannot be made.
    """
    place = 1
    while True:
        folder = parent / (name if place == 1 else f"{name}-{place}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            place += 1
        else:
            return folder
