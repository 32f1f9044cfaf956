"""The lives of a process by their names: ``worker-1``, and what restarts make of it, ``worker-1.2``, ``worker-1.3``."""


def first_life(name: str) -> str:
    """What the process was called at first: ``worker-1`` of ``worker-1.2``, and of itself."""
    return name.partition(".")[0]
