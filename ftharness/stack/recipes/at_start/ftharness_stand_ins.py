"""Stands in for packages that have no build for a CPU, and that a text model's server imports but never calls.

``FTHARNESS_STAND_INS`` names their top-level modules, with commas. One that is installed is taken as it is. Any
attribute of a stand-in is an empty class, and an attribute of that is its own name: enough for an import, a base class,
a decorator's argument or a constant. What really calls one computes nonsense.
"""  # noqa: INP001 - a folder on PYTHONPATH is no package

import importlib.abc
import importlib.machinery
import os
import sys
import types
from collections.abc import Iterable


class _EmptyClass(type):
    """The class of what is looked for in a stand-in."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):  # what Python and inspect ask of every class must be seen to be missing
            raise AttributeError(name)
        return name


class _StandIn(types.ModuleType):
    """A module in which everything is found."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []  # a package: whatever is below it is a stand-in, too

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _EmptyClass(name, (), {})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the named packages where nobody else has."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)

    def find_spec(self, fullname: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        """A named package, or what is below one."""
        if fullname.partition(".")[0] not in self._names:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """Everything is found in it."""
        return _StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing to run."""


def install() -> None:
    """Asked last, so that a real package comes first."""
    names = [name for name in os.environ.get("FTHARNESS_STAND_INS", "").split(",") if name]
    if names:
        sys.meta_path.append(_Finder(names))
