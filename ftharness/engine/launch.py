"""Runs a module of this package by path: ``PYTHON -I -S …/launch.py MODULE ARGUMENTS…``.

The interpreter is the system under test's own, which does not have this package installed, nor what it depends on. So a
bare ``ftharness`` stands in for the real one: its folder is known, its ``__init__`` is never run, and the modules below
it can import each other as usual.
"""

import importlib
import os.path
import sys
import types

FOLDER = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120  pathlib costs 10 ms of a worker's start

if __name__ == "__main__":
    # The script's folder leads sys.path unless -I or -P is given, and would offer our module names to everybody.
    sys.path[:] = [entry for entry in sys.path if entry != FOLDER]
    bare = types.ModuleType("ftharness")
    bare.__path__ = [os.path.dirname(FOLDER)]  # noqa: PTH120
    sys.modules["ftharness"] = bare
    sys.exit(importlib.import_module(f"ftharness.engine.{sys.argv[1]}").main(sys.argv[2:]))
