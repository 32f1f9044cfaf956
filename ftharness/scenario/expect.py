"""An expectation, as data: an oracle's name and its arguments; and where the oracles are found."""

from collections.abc import Callable, Mapping
from typing import Any, get_args

import msgspec

from ftharness.registry import find_installed
from ftharness.scenario.case import Case, Finding
from ftharness.scenario.record import Verdict


class Expect(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One expectation.

    Attributes:
        oracle: The oracle's name, as registered.
        args: Its arguments.
        request: The id of the one request that it is about; "" is all of the fault phase.
        place: The same, by its place in the workload, from 0, or among the requests that a test has sent.
        condition: A documented behaviour of the system under test without which it is not expected; ``!NAME``: with which.
    """

    oracle: str
    args: dict[str, Any] = {}
    request: str = ""
    place: int | None = None
    condition: str = ""

    def __str__(self) -> str:
        """As it stands in a report."""
        about = {} if self.place is None else {"request": self.place}
        return f"{self.oracle}({', '.join(f'{key}={value!r}' for key, value in (self.args | about).items() if value != '')})"

    def where(self, condition: str) -> "Expect":
        """The same, expected only of versions whose documented behaviour is ``condition`` (or not: ``!NAME``)."""
        return msgspec.structs.replace(self, condition=condition)

    @property
    def of_one(self) -> bool:
        """Whether it is about one request only."""
        return bool(self.request) or self.place is not None

    def applies(self, behaviour: Mapping[str, Any]) -> bool:
        """Whether it is expected of a stack with this behaviour; what is not documented is taken to be so."""
        name = self.condition.removeprefix("!")
        return not name or bool(behaviour.get(name, True)) != self.condition.startswith("!")


Oracle = Callable[..., object]  # others write them, too: what they return is looked at


def find_oracle(name: str) -> Oracle:
    """The oracle of that name: a function ``(case, **args) -> Finding``.

    Raises:
        LookupError: There is none; names the nearest.
    """
    oracle: Oracle = find_installed("ftharness.oracles", name, "oracle")
    return oracle


def apply(expect: Expect, case: Case) -> Finding:
    """What the oracle says of the case. A crashed oracle is ``unknown``, and says where it crashed."""
    try:
        finding = find_oracle(expect.oracle)(case.about(expect.request, expect.place), **expect.args)
        if not isinstance(finding, Finding) or finding.verdict not in get_args(Verdict):
            return Finding("unknown", f"the oracle {expect.oracle} is broken: it said {finding!r}, which is no Finding")
        return finding  # noqa: TRY300 - both ends belong together
    except LookupError as error:
        return Finding("unknown", str(error))
    except Exception as error:  # noqa: BLE001 - others write oracles, too; one that crashes has shown nothing
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
        return Finding("unknown", f"the oracle crashed: {type(error).__name__}: {error}{place}")
