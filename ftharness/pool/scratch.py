"""An engine's temporary files: a folder of its own, which is its ``TMPDIR`` and is removed when nothing of the engine is left.

Engines that are killed leave sockets and files behind (vLLM's servers do so even where they end in order). The folder has a
short path, for engines put their sockets there and a socket's path takes no more than 107 bytes. So it does not lie in the
slot's folder, but a link there says where it does, from before it is made: whoever has the slot next finds it.

Standard library only: the shim makes and removes it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

#: In a slot's folder.
LINK = "tmp"


def make_scratch(slot: str, base: str, uid: int | None = None, gid: int | None = None) -> Path:
    """Make it anew; what an earlier engine of the slot had is removed.

    Args:
        slot: The slot's folder; the caller has the slot.
        base: In which folder, such as ``/tmp``.
        uid: Whose it is to be; None: ours.
        gid: And whose group's.

    Raises:
        OSError: It cannot be made.
    """
    remove_scratch(slot)
    path = Path(base, f"ft-{os.urandom(4).hex()}")
    Path(slot, LINK).symlink_to(path)
    path.mkdir(0o700)
    if uid is not None and gid is not None:
        os.chown(path, uid, gid, follow_symlinks=False)
    return path


def remove_scratch(slot: str) -> None:
    """Remove it, if there is one, with all that is in it; what cannot be removed stays, and is no reason to fail.

    Args:
        slot: The slot's folder; nothing of its engine is left.
    """
    try:
        path = Path(slot, LINK).readlink()
    except OSError:
        return
    give_back(slot, path)


def give_back(slot: str, path: Path) -> None:
    """Remove the one that was made, whatever became of the slot's folder: it may be gone, or be another's by now.

    Args:
        slot: The slot's folder.
        path: What :func:`make_scratch` made.
    """
    try:
        path.rmdir()
    except FileNotFoundError:
        pass
    except OSError:
        import shutil  # noqa: PLC0415 - a shim has no need of it as long as its engine lives

        shutil.rmtree(path, ignore_errors=True)  # which follows no link, whoever puts one in its way
    link = Path(slot, LINK)
    with contextlib.suppress(OSError):
        if link.readlink() == path:
            link.unlink()
