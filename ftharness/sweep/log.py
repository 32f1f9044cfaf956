"""What is logged while a sweep runs: for a file, since the terminal is told in a sweep's words."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def logged(own: Path) -> Iterator[None]:
    """Log into ``coordinator.log`` of the folder ``own``, made if need be."""
    own.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(own / "coordinator.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log = logging.getLogger("ftharness")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)
        handler.close()
