"""What the harness adds to a scenario: ``ftharness run migration/worker_failure`` on ``sim`` beside a bare script.

The script (``_bare_migration.py``) starts the same frontend and workers, waits until they serve, sends the same two
requests, kills the same worker at the same token, and stops all. Both are timed whole, from exec to exit, in pairs; a
bare launch knows nothing of what the harness keeps, judges and reports.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from _figures import ENVIRONMENT, Figures, median, paired, seconds_of

_BARE = [sys.executable, str(Path(__file__).with_name("_bare_migration.py"))]
_HARNESS = [str(Path(sys.executable).with_name("ftharness")), "run", "migration/worker_failure", "--out"]


def _run(argv: list[str]) -> float:
    return seconds_of(lambda: subprocess.run(argv, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL))


def _harness() -> float:
    with tempfile.TemporaryDirectory() as folder:
        return _run([*_HARNESS, f"{folder}/run"])


def main() -> None:
    figures = Figures(__doc__)
    repeats = 2 if figures.quick else 6
    _harness()  # whoever is first compiles
    harness, bare = paired(_harness, lambda: _run(_BARE), repeats)
    figures.tell(
        "overhead/worker_failure_on_sim",
        median(harness),
        "s",
        n=repeats,
        bound="difference <= 0.5",
        peer="a bare script of the same steps",
        peer_value=median(bare),
    )
    figures.end()


if __name__ == "__main__":
    main()
