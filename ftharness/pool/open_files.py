"""How many files the manager may have open: each holder who waits for news has a connection, and each engine has two.

Engines get the limit back that the manager began with: some programs cannot do with descriptors above 1,023 (select(2)).
"""

import resource
from typing import Final

#: The soft limit that the process began with; -1: none.
AT_FIRST: Final = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
#: What is kept for engines, their probes and files, however many clients there are: a part of all.
_KEPT_PART: Final = 4
#: And for connections that were accepted, and are too many: they are closed a little later, when as many more may have come.
_BURST_PART: Final = 64
#: More is of no use to us, and what the kernel gives for each is not free.
_MOST: Final = 65_536


def raise_limit() -> None:
    """As many as we may have without asking anybody."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def for_connections() -> int:
    """How many clients may be connected at once."""
    return _limit() * (_KEPT_PART - 1) // _KEPT_PART


def in_one_go() -> int:
    """How many may be accepted before the first of them is looked at."""
    return max(1, _limit() // _BURST_PART)


def _limit() -> int:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MOST if soft == resource.RLIM_INFINITY else soft
