"""Run the guardian: ``PYTHON -I -S launch_guardian.py SOCKET_FD HARNESS_PID``.

Two bare modules stand in for the packages, so that ``__init__.py`` (asyncio, msgspec: 70 ms) is not run, and the
guardian's own modules are imported as everybody imports them, compiled once.
"""

import sys

folder = __file__.rsplit("/", 1)[0]
for package, path in (("ftharness", folder + "/.."), ("ftharness.process", folder)):
    module = type(sys)(package)
    module.__path__ = [path]
    sys.modules[package] = module

from ftharness.process.guardian import main  # noqa: E402 - only now can it be found

main(int(sys.argv[1]), int(sys.argv[2]))
