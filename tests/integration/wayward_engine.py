"""The simulated worker with an engine that is no reference, as ``$WAYWARD`` says: started by path, in place of ``launch.py``.

``forgets``: it never answers the same twice. ``rereads``: what it reads of an answer at once it continues otherwise than what
it made one by one. ``babbles``: it says two tokens for ever. Each is something that real engines do. ``spells`` is nothing of
the kind: a text is the same to it in whichever tokens it comes, where the simulated engine reads what it said as others than
it made. Of several, with a comma between them, each.
"""

import importlib
import os
import sys
import types
from collections.abc import Iterable

HOW = os.environ["WAYWARD"].split(",")
PROMPT = 40  # tokens: no prompt of the tests is longer

bare = types.ModuleType("ftharness")
bare.__path__ = [os.environ["WAYWARD_PACKAGE"]]
sys.modules["ftharness"] = bare
tokens = importlib.import_module("ftharness.engine.tokens")


Chain = tokens.Chain


class WaywardChain(Chain):  # type: ignore[misc] - imported by name, below a package that is none
    """The chain of tokens, led astray."""

    __slots__ = ("place", "read", "seed")

    def __init__(self, seed: int, ids: Iterable[int]) -> None:
        ids = list(ids)
        if "forgets" in HOW:
            seed += int.from_bytes(os.urandom(4))
        if "rereads" in HOW and len(ids) > PROMPT:
            seed += 1
        super().__init__(seed, ids)
        self.place, self.seed, self.read = len(ids), seed, tokens.decode(ids)

    def take(self, n: int) -> list[int]:
        """The next ids."""
        taken: list[int] = self._spelled(n) if "spells" in HOW else super().take(n)
        self.place += n
        return [place & 1 for place in range(self.place - n, self.place)] if "babbles" in HOW else taken

    def _spelled(self, n: int) -> list[int]:
        """The same, each read by its letters before the one after it is made."""
        taken: list[int] = []
        for _ in range(n):
            taken += Chain(self.seed, tokens.encode(self.read)).take(1)
            self.read += tokens.decode(taken[-1:])
        return taken


tokens.Chain = WaywardChain
importlib.import_module("ftharness.engine.engine_child").LAUNCH = os.path.abspath(__file__)  # noqa: PTH100 - of a module that has paths as texts
sys.exit(importlib.import_module(f"ftharness.engine.{sys.argv[1]}").main(sys.argv[2:]))
