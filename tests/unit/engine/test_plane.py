"""Whose turn it is at the frontend, and who counts as there. No connection is needed for that."""

from hypothesis import given
from hypothesis import strategies as st

from ftharness.engine.frontend_log import FrontendLog
from ftharness.engine.frontend_plane import Plane, WorkerLink


def plane(*workers: tuple[str, str], draining: str = "") -> Plane:
    """One that these workers, each a name and a role, have joined."""
    one = Plane("m", FrontendLog("m"))
    for name, role in workers:
        link = WorkerLink(one)
        link.name, link.role, link.draining = name, role, name == draining
        one.workers.append(link)
    return one


def picked(one: Plane, role: str, times: int) -> list[str]:
    return [worker.name for _ in range(times) if (worker := one.pick(role))]


def test_each_role_has_turns_of_its_own() -> None:
    """Round robin; one that drains takes nothing, and does not count as there."""
    one = plane(("p1", "prefill"), ("d1", "decode"), ("p2", "prefill"), ("p3", "prefill"), draining="p2")
    assert picked(one, "prefill", 4) == ["p1", "p3", "p1", "p3"]
    assert picked(one, "decode", 2) == ["d1", "d1"]
    assert (one.has("prefill"), one.has("decode"), one.has("aggregated")) == (True, True, False)
    assert not plane(("p2", "prefill"), draining="p2").has("prefill")


def test_one_that_another_has_lost_is_last() -> None:
    """It may be gone without our knowing yet; where it is the only one, it is its turn all the same."""
    one = plane(("p1", "prefill"), ("p2", "prefill"), ("p3", "prefill"))
    one.defer("p1")
    assert picked(one, "prefill", 3) == ["p2", "p3", "p1"]
    one.defer("nobody")
    alone = plane(("p1", "prefill"))
    alone.defer("p1")
    assert picked(alone, "prefill", 1) == ["p1"]


@given(st.integers(2, 50))
def test_no_two_attempts_have_a_name_in_common(count: int) -> None:
    """Nor have those of two frontends, one of which came after the other."""
    first, second = plane(), plane()
    names = [one.new_key() for one in (first, second) for _ in range(count)]
    assert len(set(names)) == 2 * count
