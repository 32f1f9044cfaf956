"""The book of leases."""

import pytest

from ftharness.pool.leases import Lease, LeaseEnded, Leases, UnknownLease


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def leases(clock: Clock) -> Leases:
    return Leases(clock, zero_s=1_700_000_000.0, manager="m1", kept=3)


def grant(leases: Leases, ttl_s: float = 10.0) -> Lease:
    return leases.grant(pool_id="p", engine_id="p-1", url="http://127.0.0.1:1", holder="me", ttl_s=ttl_s)


def test_a_holder_is_told_times_by_the_machines_clock(leases: Leases, clock: Clock) -> None:
    """Milliseconds since the epoch; the deadline itself is by the monotonic clock."""
    lease = grant(leases)
    assert (lease.granted_ms, lease.expires_ms) == (1_700_000_100_000, 1_700_000_110_000)
    clock.now += 4
    assert leases.renew(lease.id, 10.0).expires_ms == 1_700_000_114_000
    assert leases.next_deadline() == 114.0


def test_a_lease_ends_at_its_deadline_and_not_before(leases: Leases, clock: Clock) -> None:
    """Renewed, at the later one; the first deadline passes by."""
    lease = grant(leases)
    clock.now = 109.0
    leases.renew(lease.id, 10.0)
    clock.now = 118.9
    assert leases.due() == []
    clock.now = 119.0
    assert leases.due() == [lease.id]


def test_one_that_is_renewed_in_the_same_instant_ends_once(leases: Leases, clock: Clock) -> None:
    """Its deadline stands in the heap twice, to the same bit."""
    lease = grant(leases)
    leases.renew(lease.id, 10.0)
    clock.now = 110.0
    assert leases.due() == [lease.id]


def test_how_a_lease_ended_can_be_seen_afterwards_and_not_changed(leases: Leases) -> None:
    """Also by whoever gives it back late; it cannot be renewed."""
    lease = grant(leases)
    leases.end(lease.id, "revoked", "p-1: SIGKILL")
    assert leases.end(lease.id, "released").state == "revoked"
    assert leases.get(lease.id).reason == "p-1: SIGKILL"
    with pytest.raises(LeaseEnded, match=f"lease {lease.id} is revoked: p-1: SIGKILL") as ended:
        leases.renew(lease.id, 10.0)
    assert ended.value.lease.state == "revoked"
    assert leases.ended == {("p", "revoked"): 1}


def test_a_lease_that_is_not_known_says_why(leases: Leases) -> None:
    """Of another manager's, of this one's that ended long ago; only so many that are over are kept."""
    ended = [leases.end(grant(leases).id, "released") for _ in range(4)]
    with pytest.raises(UnknownLease, match="ended long ago, or never was"):
        leases.get(ended[0].id)
    assert leases.get(ended[1].id).state == "released"
    with pytest.raises(UnknownLease, match="this manager did not grant it"):
        leases.get("m0-1")


def test_what_is_kept_does_not_grow_with_what_was(leases: Leases) -> None:
    """Ten thousand leases of an hour, given back at once, and one that is renewed ten thousand times."""
    held = grant(leases, 3600.0)
    for _ in range(10_000):
        leases.end(grant(leases, 3600.0).id, "released")
        leases.renew(held.id, 3600.0)
    assert len(leases._deadlines) < 100
    assert len(leases._over) == 3
    assert len(leases) == 1
    assert leases.granted["p"] == 10_001
