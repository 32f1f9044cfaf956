"""The command's entrance: ``ftharness`` and ``python -m ftharness``. A Ctrl-C is an end like any other, whenever it comes."""

import os
import sys

from ftharness.outputs import outlast


def main() -> None:
    """Run the command line, and end with its status."""
    try:
        out = outlast()
        status = _run()
        sys.stdout.flush()
        if lost := out.lost():
            sys.stderr.write(f"ftharness: standard output: {lost}: not everything is there; the exit status stands\n")
        sys.stderr.flush()
    except KeyboardInterrupt:
        status = 130
    # Not by way of the interpreter's own end, which takes 75 ms, frees nothing that the kernel does not, and answers a Ctrl-C
    # with a traceback. What we started has ended by now, or its guardian ends it.
    os._exit(status)


def _run() -> int:
    from ftharness.cli import app  # noqa: PLC0415 - under the hand that catches a Ctrl-C

    try:
        app(prog_name="ftharness")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0


if __name__ == "__main__":
    main()
