"""Wall time of whole commands: a scenario of each stack that is here, ``list``, and a name that is misspelt.

Beside them, in the same run, what no Python program can be faster than: an interpreter that imports nothing.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from _figures import ENVIRONMENT, Figures, median, paired, seconds_of

_FTHARNESS = str(Path(sys.executable).with_name("ftharness"))
_SCENARIO = "migration/worker_failure"
_BOUNDS = {"sim": 4, "dynamo-sim": 9}


def _time(argv: list[str], status: int = 0) -> float:
    def call() -> None:
        done = subprocess.run(argv, env=ENVIRONMENT, check=False, capture_output=True)
        assert done.returncode == status, (argv, done.returncode, done.stdout, done.stderr)

    return seconds_of(call)


def _interpreter() -> float:
    return _time([sys.executable, "-c", ""])


def _available(stack: str) -> bool:
    """Whether the stack is known and provisioned: a misspelt scenario is told apart from what is missing."""
    argv = [_FTHARNESS, "run", _SCENARIO, "--stack", stack, "--set", "no=such"]
    said = subprocess.run(argv, env=ENVIRONMENT, check=False, capture_output=True, text=True)
    return said.returncode == 2 and "no stack" not in said.stderr


def main() -> None:
    figures = Figures(__doc__)
    repeats = 2 if figures.quick else 3
    for stack, bound in _BOUNDS.items():
        if not _available(stack):
            continue

        def run(stack: str = stack) -> float:
            with tempfile.TemporaryDirectory() as folder:
                return _time([_FTHARNESS, "run", _SCENARIO, "--stack", stack, "--out", f"{folder}/run"])

        run()
        took = [run() for _ in range(repeats)]
        figures.tell(f"cli/run_{stack}", median(took), "s", n=repeats, bound=f"value <= {bound}")
    for name, arguments, status in (("list", ["list"], 0), ("typo", ["run", "migraton/worker_failure"], 2)):
        ours, peer = paired(lambda a=arguments, s=status: _time([_FTHARNESS, *a], s), _interpreter, 3 * repeats)
        figures.tell(
            f"cli/{name}",
            median(ours),
            "s",
            n=3 * repeats,
            bound="value <= 0.5",
            peer="an interpreter that does nothing",
            peer_value=median(peer),
        )
    figures.end()


if __name__ == "__main__":
    main()
