"""Run the simulated engine under any interpreter: ``PYTHON -I -S launch_sim.py --port PORT``.

Bare modules stand in for the packages, so that no ``__init__.py`` is run: the engine needs the standard library alone.
"""

import sys

folder = __file__.rsplit("/", 1)[0]
for package, path in (
    ("ftharness", folder + "/.."),
    ("ftharness.pool", folder),
    ("ftharness.engine", folder + "/../engine"),
):
    module = type(sys)(package)
    module.__path__ = [path]
    sys.modules[package] = module

from ftharness.pool.sim_engine import main  # noqa: E402 - only now can it be found

sys.exit(main(sys.argv[1:]))
