"""Which scenarios could run on which stack here: for ``ftharness doctor``. Plans are made, nothing is started."""

import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ftharness.registry import installed
from ftharness.scenario.library import shipped
from ftharness.scenario.runner import not_for
from ftharness.scenario.scenario import Scenario
from ftharness.stack import NotApplicable, NotAvailable, Settings, StackKind, find_stack


class Runs(NamedTuple):
    """What a stack can run.

    Attributes:
        stack: Its name.
        version: Of the system under test; "" where it is not installed.
        missing: What is missing, and how to get it, and which scenarios lack it where others do not; "" where nothing is.
        scenarios: Those that mean something there; of families, ``failover/*`` or ``migration/* but drain``.
    """

    stack: str
    version: str
    missing: str
    scenarios: tuple[str, ...]


def runs_where() -> Iterator[Runs]:
    """Each stack that runs on this machine alone; one that applies a file needs that."""
    scenarios = shipped()
    with tempfile.TemporaryDirectory() as folder:
        for name in installed("ftharness.stacks"):
            if name != "k8s":  # it is made from a manifest, and what is there is for the cluster to say
                yield _runs(find_stack(name), scenarios, Path(folder))


def _runs(kind: StackKind, scenarios: dict[str, Scenario], folder: Path) -> Runs:
    try:
        version = kind.version(None)
    except NotAvailable as error:
        return Runs(kind.name, "", str(error), ())
    lacking: dict[str, list[str]] = defaultdict(list)
    found = []
    for name, scenario in scenarios.items():
        if not_for(scenario, kind):
            continue
        settings = Settings(engine=kind.engines[0], folder=folder, hold_ports=False, jobs=scenario.jobs)
        try:
            kind.plan(scenario.topology, settings).close()
        except NotApplicable:
            continue
        except NotAvailable as error:
            lacking[str(error)].append(name)
            continue
        found.append(name)
    missing = [
        f"{', '.join(_folded(names, scenarios))}: {what}" if found or len(lacking) > 1 else what
        for what, names in lacking.items()
    ]
    return Runs(kind.name, version, "; ".join(missing), tuple(_folded(found, scenarios)))


def _folded(names: Iterable[str], scenarios: Iterable[str]) -> Iterator[str]:
    """Whole families as ``family/*``, most of one as ``family/* but …``; else each by its name."""
    families: dict[str, list[str]] = defaultdict(list)
    for name in names:
        families[name.partition("/")[0]].append(name)
    for family, its in families.items():
        whole = [name for name in scenarios if name.startswith(f"{family}/")]
        without = [name.partition("/")[2] for name in whole if name not in its]
        if 2 * len(without) >= len(whole):
            yield from its
        else:
            yield f"{family}/*" + (f" but {' and '.join(without)}" if without else "")
