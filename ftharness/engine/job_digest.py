"""Digests of items: numbers of 64 bits that add up, so that those of batches give that of a checkpoint or of all."""

_ALL = 1 << 64


def added(*digests: int) -> int:
    """The digest of all of them together."""
    return sum(digests) % _ALL


def shown(digest: int) -> str:
    """As it stands in a line."""
    return f"{digest:016x}"


def read(text: str) -> int:
    """What :func:`shown` wrote."""
    return int(text, 16)
