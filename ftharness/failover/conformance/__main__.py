"""``python -m ftharness.failover.conformance module:Class``: all checks of one lock, a line each; 1 where one fails."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from ftharness.failover.conformance import CHECKS, NonConformance


def main() -> int:
    """Runs the checks."""
    parser = argparse.ArgumentParser(
        prog="python -m ftharness.failover.conformance", description="Check a failover lock."
    )
    parser.add_argument("lock", help="as package.module:Class or path/file.py:Class, called with the lock file's path")
    parser.add_argument(
        "--folder", type=Path, help="where to make lock files (default: the folder for temporary files)"
    )
    arguments = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for check in CHECKS:
            own = Path(folder) / check.name
            own.mkdir()
            began = time.monotonic()
            try:
                check(arguments.lock, own)
            except NonConformance as error:
                failed += 1
                sys.stdout.write(f"fail  {check}: {error}\n      {check.shows}\n")
            except LookupError as error:
                sys.stderr.write(f"{error}\n")
                return 2
            else:
                sys.stdout.write(f"ok    {check} ({time.monotonic() - began:.1f} s)\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(CHECKS) - failed} of {len(CHECKS)} hold\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
