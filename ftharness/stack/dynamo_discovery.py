"""Dynamo's discovery in a folder: a fresh one for each launch, and which of its entries have outlived their lease."""

import time
from pathlib import Path

from ftharness.stack.fresh import fresh_folder

#: Seconds after which an entry that its owner does not touch is removed by whoever watches, in 1.4 to 1.6; owners touch
#: theirs every 3 s. A killed worker's so lingers 7 to 10 s.
LEASE_S = 10.0
_LATE_S = 2.0  # for the look that removes it


def new_store(folder: Path) -> Path:
    """A folder for discovery in ``folder``: entries of a launch that failed would live on for a lease.

    Raises:
        OSError: It cannot be made.
    """
    return fresh_folder(folder, "discovery")


def expired(store: Path) -> list[str]:
    """The entries that nobody has touched for longer than the lease, and nobody has removed.

    What is removed while we look is not among them.
    """
    now, found = time.time(), []
    for entry in sorted(store.rglob("*")):
        try:
            age_s = now - entry.stat().st_mtime
        except FileNotFoundError:
            continue
        if entry.is_file() and age_s > LEASE_S + _LATE_S:
            found.append(f"{entry.relative_to(store)}: not renewed for {age_s:.1f} s, of a lease of {LEASE_S:g} s")
    return found
