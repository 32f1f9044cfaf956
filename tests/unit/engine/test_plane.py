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


class Told:
    """A request on a worker, which notes what it hears of its end."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def on_accepted(self) -> None: ...

    def on_prefilled(self) -> None: ...

    def on_tokens(self, ids: list[int], reason: str | None) -> None: ...

    def on_disconnected(self, error: str) -> None:
        self.errors.append(error)


def test_a_worker_that_says_whom_it_lost_is_believed() -> None:
    """Its request hears of it once, and the lost one is last when that request asks for the next."""
    one = plane(("p1", "prefill"), ("p2", "prefill"), ("d1", "decode"))
    told, link = Told(), one.workers[2]
    link.streams["1"] = told
    lost = b'{"op":"lost","key":"1","worker":"p1","reason":"worker p1 is gone (closed)"}\n'
    for piece in (lost[:20], lost[20:], lost):  # whatever comes after the end of a request is nobody's
        link.data_received(piece)
    assert told.errors == ["Disconnected: worker p1 is gone (closed)"]
    assert picked(one, "prefill", 2) == ["p2", "p1"]


@given(st.integers(2, 50))
def test_no_two_attempts_have_a_name_in_common(count: int) -> None:
    """Nor have those of two frontends, one of which came after the other."""
    first, second = plane(), plane()
    names = [one.new_key() for one in (first, second) for _ in range(count)]
    assert len(set(names)) == 2 * count
