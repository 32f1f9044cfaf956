"""Leases taken and given back in one process on one core: ours, and the least that any book of leases has to do.

The peer grants from a counter and keeps each lease in a dict until it is given back: no deadlines, no engines, no subscribers, no
lookup of what has ended. What ours costs beside it is what these cost. It is measured with nobody listening; with a subscriber,
as in a manager with metrics; with a file that tells the next manager of each, a thousand held meanwhile; with a thousand leases
held and renewed; and on a pool of 64 engines.
"""

import itertools
import tempfile
from pathlib import Path
from random import Random

from _figures import Figures, cpu_seconds_of, median, paired

from ftharness.pool import PoolConfig, Registry
from ftharness.pool.lease_file import LeaseFile

_ENOUGH = "value >= 20000"


def ready(replicas: int, slots: int) -> Registry:
    """A pool ``p`` whose engines are ready."""
    registry = Registry([PoolConfig(id="p", engine="sim", replicas=replicas)], random=Random(0))  # noqa: S311 - no secret
    for engine_id in registry.pool("p").config.engine_ids:
        registry.engine_state(engine_id, "starting")
        registry.engine_ready(engine_id, url="http://127.0.0.1:1", engine_version="1", model_id="m", slots=slots)
    return registry


def taken_and_given(registry: Registry, count: int) -> None:
    for _ in range(count):
        registry.release(registry.acquire("p", holder="bench").id)


def least(count: int) -> None:
    numbers, held, slots = itertools.count(), {}, 4
    for _ in range(count):
        if len(held) >= slots:
            raise RuntimeError
        number = next(numbers)
        held[number] = ("p", "p-1", "bench")
        del held[number]


def main() -> None:
    figures = Figures(__doc__)
    count, repeats = (5_000, 3) if figures.quick else (40_000, 5)
    plain = ready(1, 4)

    def rate(registry: Registry) -> float:
        return count / cpu_seconds_of(lambda: taken_and_given(registry, count))

    ours, peers = paired(lambda: rate(plain), lambda: count / cpu_seconds_of(lambda: least(count)), repeats)
    figures.tell(
        "lease_and_release",
        median(ours),
        "pairs/s",
        n=repeats * count,
        bound=_ENOUGH,
        peer="a counter and a dict",
        peer_value=median(peers),
    )

    listened = ready(1, 4)
    heard: list[object] = []
    listened.subscribe(lambda change: heard.append(change) if len(heard) < 100 else heard.clear())
    figures.tell(
        "lease_and_release_listened",
        median([rate(listened) for _ in range(repeats)]),
        "pairs/s",
        n=repeats * count,
        bound=_ENOUGH,
    )

    with tempfile.TemporaryDirectory(prefix="ftharness-leases-") as folder:
        kept = ready(4, 300)
        kept.keep(LeaseFile(Path(folder, "leases")))
        for _ in range(1000):
            kept.acquire("p", ttl_s=600.0)
        rates = [rate(kept) for _ in range(repeats)]
        kept.keep(None)
    figures.tell("lease_and_release_kept_1000_held", median(rates), "pairs/s", n=repeats * count, bound=_ENOUGH)

    busy = ready(4, 300)
    held = itertools.cycle([busy.acquire("p", ttl_s=600.0).id for _ in range(1000)])

    def with_renewals() -> None:
        for _ in range(count):
            busy.release(busy.acquire("p").id)
            busy.renew(next(held))

    rates = [count / cpu_seconds_of(with_renewals) for _ in range(repeats)]
    figures.tell("lease_renewal_and_release_1000_held", median(rates), "triples/s", n=repeats * count, bound=_ENOUGH)

    wide = ready(64, 4)
    figures.tell(
        "lease_and_release_64_engines",
        median([rate(wide) for _ in range(repeats)]),
        "pairs/s",
        n=repeats * count,
        bound=_ENOUGH,
    )
    figures.end()


if __name__ == "__main__":
    main()
