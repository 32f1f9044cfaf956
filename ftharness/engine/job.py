"""A job: work that one process does to its end, such as inference with checkpoints: ``python -m ftharness.engine.job PROGRAM``.

Unlike workers of the simulated stack it runs the libraries that it is there to put under fault, ``ftharness.checkpoint`` and
``ftharness.coordinator``, as anybody would who uses them; or it leases engines of ``ftharness.pool``, as anybody would. It ends
with 0 where all is done, with 3 where something had to be given up, which it names, and with 1 where it failed.
"""

import argparse
import sys
from typing import Any

from ftharness.engine.job_arguments import parser_of
from ftharness.engine.job_inference import inference
from ftharness.engine.job_log import speak_by_logging
from ftharness.engine.job_settings import JobSettings


def main(argv: list[str] | None = None) -> int:
    """Run a program to its end; the exit status."""
    given = vars(parser_of(argparse.ArgumentParser).parse_args(argv))
    speak_by_logging()
    if given.pop("program") == "inference":
        return inference(JobSettings(**given))
    return _leased(given)


def _leased(given: dict[str, Any]) -> int:
    from ftharness.engine.job_leases import LeasesSettings, leases  # noqa: PLC0415 - what inference does without

    return leases(LeasesSettings(**given))


if __name__ == "__main__":
    sys.exit(main())
