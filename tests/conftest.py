"""How the whole suite is run: what is compiled is compiled once, and no process is left with what others could do."""

import os
import sys

import pytest

# The suite starts this package some hundred times, and half of what a short call takes is to compile it: what one has
# compiled the next reads, also where the environment says that nobody should keep it.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_configure(config: pytest.Config) -> None:
    """Under xdist, give out one test at a time.

    It would give each process a quarter of its share to begin with, in their order. As some take 20 s and most none, one
    would still be at that when the others have done all the rest.
    """
    if getattr(config.option, "maxschedchunk", 0) is None:
        config.option.maxschedchunk = 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what is provisioned, by the real pip: each test takes some 10 s, and would come last but for quick ones.

    All others that take long are in folders that come first anyway.
    """
    items.sort(key=lambda item: not item.path.name.startswith("test_provision"))


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project that is not ours does not have the plugins that only our tests need: they are half of pytest's start."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:schemathesis -p no:hypothesispytest")
    return pytester
