"""What ``ft.run`` gives: the record of a scenario, which a test may also await."""

from ftharness.portal import Done
from ftharness.scenario import ScenarioRecord


class Ran(ScenarioRecord, Done, frozen=True, kw_only=True):
    """The record of a scenario that was run by a test. It is over: ``await`` gives it at once."""
