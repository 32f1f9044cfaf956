"""The simulated worker with an engine that is no reference, as ``$WAYWARD`` says: started by path, in place of ``launch.py``.

``forgets``: it never answers the same twice. ``rereads``: what it reads of an answer at once it continues otherwise than what
it made one by one. ``babbles``: it says two tokens for ever. Each is something that real engines do.
"""

import importlib
import os
import sys
import types
from collections.abc import Iterable

HOW = os.environ["WAYWARD"]

bare = types.ModuleType("ftharness")
bare.__path__ = [os.environ["WAYWARD_PACKAGE"]]
sys.modules["ftharness"] = bare
tokens = importlib.import_module("ftharness.engine.tokens")


class WaywardChain(tokens.Chain):  # type: ignore[misc] - imported by name, below a package that is none
    """The chain of tokens, led astray."""

    __slots__ = ("place",)

    def __init__(self, seed: int, ids: Iterable[int]) -> None:
        ids = list(ids)
        if HOW == "forgets":
            seed += int.from_bytes(os.urandom(4))
        if HOW == "rereads" and any(token_id < tokens.WORDS for token_id in ids):
            seed += 1
        super().__init__(seed, ids)
        self.place = len(ids)

    def take(self, n: int) -> list[int]:
        """The next ids."""
        taken: list[int] = super().take(n)
        self.place += n
        return [place & 1 for place in range(self.place - n, self.place)] if HOW == "babbles" else taken


tokens.Chain = WaywardChain
importlib.import_module("ftharness.engine.engine_child").LAUNCH = os.path.abspath(__file__)  # noqa: PTH100 - of a module that has paths as texts
sys.exit(importlib.import_module(f"ftharness.engine.{sys.argv[1]}").main(sys.argv[2:]))
