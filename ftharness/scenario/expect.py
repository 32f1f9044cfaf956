"""An expectation, as data: an oracle's name and its arguments; and where the oracles are found."""

import difflib
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import msgspec

from ftharness.scenario.case import Case, Finding


class Expect(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One expectation.

    Attributes:
        oracle: The oracle's name, as registered.
        args: Its arguments.
        request: The id of the one request that it is about; "" is all of the fault phase.
    """

    oracle: str
    args: dict[str, Any] = {}
    request: str = ""

    def __str__(self) -> str:
        """As it stands in a report."""
        return f"{self.oracle}({', '.join(f'{key}={value!r}' for key, value in self.args.items())})"


Oracle = Callable[..., Finding]


def oracles() -> dict[str, Any]:
    """All oracles that are installed: name to entry point."""
    return {entry.name: entry for entry in entry_points(group="ftharness.oracles")}


def find_oracle(name: str) -> Oracle:
    """The oracle of that name: a function ``(case, **args) -> Finding``.

    Raises:
        LookupError: There is none; names the nearest.
    """
    known = oracles()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"
        raise LookupError(f"no oracle {name!r}; {hint}")
    oracle: Oracle = known[name].load()
    return oracle


def apply(expect: Expect, case: Case) -> Finding:
    """What the oracle says of the case. A crashed oracle is ``unknown``, and says where it crashed."""
    try:
        return find_oracle(expect.oracle)(case.about(expect.request), **expect.args)
    except LookupError as error:
        return Finding("unknown", str(error))
    except Exception as error:  # noqa: BLE001 - others write oracles, too; one that crashes has shown nothing
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
        return Finding("unknown", f"the oracle crashed: {type(error).__name__}: {error}{place}")
