"""Run an engine's shim: ``PYTHON -I -S launch_shim.py SOCKET_FD SPEC_FD MANAGER_PID``.

Bare modules stand in for the packages, so that no ``__init__.py`` is run: the shim needs the standard library alone.
"""

import sys

folder = __file__.rsplit("/", 1)[0]
for package, path in (
    ("ftharness", folder + "/.."),
    ("ftharness.pool", folder),
    ("ftharness.process", folder + "/../process"),
    ("ftharness.failover", folder + "/../failover"),
):
    module = type(sys)(package)
    module.__path__ = [path]
    sys.modules[package] = module

from ftharness.pool.shim import main  # noqa: E402 - only now can it be found

main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
