"""The file of leases: what the next manager reads of it, wherever the one before was interrupted."""

import resource
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from ftharness.pool.lease_file import LeaseFile, read
from ftharness.pool.leases import Lease, Leases, NotKept, State

PROCESS = (4711, 99)
A_MS = 1_000_000


class Clock:
    """CLOCK_BOOTTIME, and the clock of leases, which is 0 when that is 50 s."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def boottime_ns(self) -> int:
        return int((self.now + 50) * 1000) * A_MS


@pytest.fixture
def clock() -> Clock:
    return Clock()


def book(clock: Clock, path: Path, say: Callable[[str], None] = lambda _: None, kept: int = 4096) -> Leases:
    leases = Leases(clock, zero_s=1_700_000_000.0, manager="m1", kept=kept)
    leases.keep(LeaseFile(path, say, boottime_ns=clock.boottime_ns))
    return leases


def grant(leases: Leases, ttl_s: float = 10.0, holder: str = "me") -> Lease:
    return leases.grant(
        pool_id="p", engine_id="p-1", url="http://127.0.0.1:1", holder=holder, ttl_s=ttl_s, process=PROCESS
    )


def told(path: Path, clock: Clock) -> dict[str, State]:
    found = read(path, boottime_ns=clock.boottime_ns)
    return {lease.id: lease.state for lease in (*(one.lease for one in found.held), *found.over)}


def test_what_was_granted_renewed_and_ended_is_read(tmp_path: Path, clock: Clock) -> None:
    """With the time that is left: it goes on while nobody manages; who is who, whoever asks late included."""
    leases = book(clock, tmp_path / "leases")
    first, second, third = (grant(leases, holder=name) for name in ("a", "b", "c\n☃"))
    clock.now = 4
    second = leases.renew(second.id, 10.0)
    leases.end(third.id, "revoked", "p-1: SIGKILL")
    clock.now = 12
    found = read(tmp_path / "leases", boottime_ns=clock.boottime_ns)
    assert [(one.lease, one.left_s, one.process) for one in found.held] == [
        (first, -2.0, PROCESS),
        (second, 2.0, PROCESS),
    ]
    assert found.over == [msgspec.structs.replace(third, state="revoked", reason="p-1: SIGKILL")]
    assert found.unreadable == 0


def test_there_may_be_no_file(tmp_path: Path) -> None:
    """As with the first manager of a folder."""
    assert read(tmp_path / "leases") == ([], [], 0)


def test_each_line_is_there_before_the_caller_has_its_lease(tmp_path: Path, clock: Clock) -> None:
    """Without a flush, without a close: as after a SIGKILL."""
    leases = book(clock, tmp_path / "leases")
    lease = grant(leases)
    assert told(tmp_path / "leases", clock) == {lease.id: "held"}
    leases.end(lease.id, "released")
    assert told(tmp_path / "leases", clock) == {lease.id: "released"}


def test_a_half_written_line_costs_itself_alone(tmp_path: Path, clock: Clock) -> None:
    """Wherever the file is cut: all whole lines before count, and what is left of the last one is told as one that is none."""
    path = tmp_path / "leases"
    leases = book(clock, path)
    lease = grant(leases)
    other = grant(leases)
    leases.renew(other.id, 20.0)
    leases.end(lease.id, "released")
    data = path.read_bytes()
    at_line = [{}, {}, {lease.id: "held"}, {lease.id: "held", other.id: "held"}]
    at_line += [at_line[-1], {lease.id: "released", other.id: "held"}]
    assert data.count(b"\n") == len(at_line) - 1
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        lines, rest = data[:cut].count(b"\n"), data[:cut].rpartition(b"\n")[2]
        whole = rest and data[cut : cut + 1] == b"\n"  # all of it but its end
        assert told(path, clock) == at_line[lines + bool(whole)], cut
        assert read(path, boottime_ns=clock.boottime_ns).unreadable == (1 if rest and not whole else 0), cut


def test_what_is_written_behind_a_half_line_is_read(tmp_path: Path, clock: Clock) -> None:
    """By a manager that could not write the file anew."""
    path = tmp_path / "leases"
    lease = grant(book(clock, path))
    path.write_bytes(path.read_bytes() + b'["+",{"id":"m1-')
    file = LeaseFile(path, boottime_ns=clock.boottime_ns)
    file.ended(msgspec.structs.replace(lease, state="expired"))
    found = read(path, boottime_ns=clock.boottime_ns)
    assert (found.held, [one.state for one in found.over], found.unreadable) == ([], ["expired"], 1)


def test_leases_of_another_boot_are_on_no_engine(tmp_path: Path, clock: Clock) -> None:
    """Its processes are gone, and its clock began anew; what is written afterwards is of this one."""
    path = tmp_path / "leases"
    lease = grant(book(clock, path))
    path.write_bytes(b'["boot","another"]\n' + path.read_bytes().split(b"\n", 1)[1])
    (held,) = read(path, boottime_ns=clock.boottime_ns).held
    assert (held.lease, held.process) == (lease, (0, 0))
    LeaseFile(path, boottime_ns=clock.boottime_ns).granted(msgspec.structs.replace(lease, id="m1-9"), 10.0, PROCESS)
    assert [one.process for one in read(path, boottime_ns=clock.boottime_ns).held] == [(0, 0), PROCESS]


def test_the_file_does_not_grow_with_what_was(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written anew in its own place; what is held, and how the last ones ended, is read as before."""
    monkeypatch.setattr("ftharness.pool.lease_file._SMALL", 4096)
    path = tmp_path / "leases"
    leases = book(clock, path, kept=3)
    untouched, held = grant(leases, 7200.0), grant(leases, 3600.0)
    largest = 0
    for _ in range(2000):
        last = leases.end(grant(leases).id, "released")
        held = leases.renew(held.id, 3600.0)
        largest = max(largest, path.stat().st_size)
    assert 4096 < largest < 16 * 1024
    found = read(path, boottime_ns=clock.boottime_ns)
    assert [*found.held] == [(untouched, 7200.0, PROCESS), (held, 3600.0, PROCESS)]
    assert last in found.over
    assert [one.name for one in tmp_path.iterdir()] == ["leases"]
    assert path.stat().st_mode & 0o777 == 0o600  # who knows a lease's id can give it back


def test_a_disk_that_is_full_costs_no_lease_that_was_granted(tmp_path: Path, clock: Clock) -> None:
    """A grant and a renewal are refused, with why; an end is an end, and it is said once that it is not written.

    The disk is a limit of this process's files, which the kernel ends a write at as a full disk does: in the midst of it.
    """
    path, said = tmp_path / "leases", list[str]()
    leases = book(clock, path, said.append)
    held, given_back, revoked = grant(leases), grant(leases), grant(leases)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 30, limit[1]))
        with pytest.raises(NotKept, match=f"{path}: it takes 30 of .* bytes; the disk is full"):
            grant(leases)
        with pytest.raises(NotKept, match=f"{path}: File too large"):
            leases.renew(held.id, 99.0)
        assert leases.end(given_back.id, "released").state == "released"
        assert leases.end(revoked.id, "revoked").state == "revoked"
        clock.now = 1
        assert leases.get(held.id) == held
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert len(said) == 1
    assert "would be held by a manager after this one until their time is over" in said[0]
    assert len(leases) == 1
    assert leases.granted == {"p": 3}
    again = grant(leases)
    assert told(path, clock) == dict.fromkeys((held.id, given_back.id, revoked.id, again.id), "held")
    assert read(path, boottime_ns=clock.boottime_ns).unreadable == 1


def test_a_file_that_cannot_be_opened_refuses_leases_until_it_can(tmp_path: Path, clock: Clock) -> None:
    """A folder that is not there stands for a disk that is read-only: root is stopped by neither mode."""
    path = tmp_path / "not-there" / "leases"
    leases = Leases(clock, zero_s=0.0, manager="m1")
    with pytest.raises(NotKept, match="No such file"):
        leases.keep(LeaseFile(path, boottime_ns=clock.boottime_ns))
    with pytest.raises(NotKept, match="No such file"):
        grant(leases)
    assert len(leases) == 0
    path.parent.mkdir()
    lease = grant(leases)
    assert told(path, clock) == {lease.id: "held"}
