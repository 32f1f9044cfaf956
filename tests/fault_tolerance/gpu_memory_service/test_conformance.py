"""Our lock stands every check, and every check has been seen failing on a lock that is wrong in that way."""

import subprocess
import sys
from pathlib import Path

import pytest

from ftharness.failover.conformance import CHECKS, Check, NonConformance

pytestmark = [pytest.mark.gpu_0, pytest.mark.pre_merge]

_WRONG = Path(__file__).with_name("wrong_locks.py")
#: A wrong lock, and the checks that tell.
_TOLD_BY = {
    "Unlinks": ["release_keeps_the_file"],
    "Inherited": ["children_inherit_nothing"],
    "Finalized": ["a_dropped_object_holds"],
    "Unaware": ["a_replaced_file_is_noticed", "a_deleted_file_is_noticed"],
    "Leaks": ["cancelled_everywhere", "times_out"],
    "Trusting": ["the_text_is_not_the_lock", "death_releases"],
    "Patient": ["times_out"],
    "Swallows": ["a_full_disk_is_an_error"],
    "Reentrant": ["one_hold_an_object"],
    "Restarts": ["tokens_grow"],
    "Forgets": ["tells_the_owner"],
    "Steals": ["a_frozen_holder_keeps_it"],
    "Outlived": ["a_dead_waiter_leaves_nothing", "a_frozen_waiter_is_passed_over"],
    "PerProcess": ["excludes"],
    "Eager": ["a_herd_of_waiters", "a_holder_dies_before_the_lock"],
    "Brusque": ["a_read_only_folder_is_an_error"],
    "AsyncOnly": ["releases_from_anywhere"],
}


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_our_lock_conforms(check: Check, tmp_path: Path) -> None:
    """See the check's own sentence."""
    check("ftharness.failover.lock:FlockFailoverLock", tmp_path)


@pytest.mark.parametrize("wrong, name", [(wrong, name) for wrong, names in _TOLD_BY.items() for name in names])
def test_a_wrong_lock_fails(wrong: str, name: str, tmp_path: Path) -> None:
    """On the check that is there for what is wrong with it."""
    (check,) = (check for check in CHECKS if check.name == name)
    with pytest.raises(NonConformance):
        check(f"{_WRONG}:{wrong}", tmp_path, patience_s=6)


def test_every_check_has_been_seen_failing() -> None:
    """There is a wrong lock for each."""
    assert {name for names in _TOLD_BY.values() for name in names} == {check.name for check in CHECKS}


@pytest.mark.parametrize("name", ["release_keeps_the_file", "tells_the_owner", "a_deleted_file_is_noticed"])
def test_a_lock_without_a_file_is_no_crash(name: str, tmp_path: Path) -> None:
    """Whatever is not there where a check looks for it is a failure of the lock."""
    (check,) = (check for check in CHECKS if check.name == name)
    with pytest.raises(NonConformance):
        check(f"{_WRONG}:Nothing", tmp_path, patience_s=6)


def test_the_command_tells_all(tmp_path: Path) -> None:
    """A line for each check, what does not hold, and how many do; what names no class is a wrong call."""
    argv = [sys.executable, "-m", "ftharness.failover.conformance", "--folder", str(tmp_path)]
    done = subprocess.run([*argv, f"{_WRONG}:Unlinks"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    failed = [line.split()[1].rstrip(":") for line in lines if line.startswith("fail")]
    assert failed == ["tells_the_owner", "release_keeps_the_file"]
    assert lines[-1] == f"{len(CHECKS) - 2} of {len(CHECKS)} hold"
    wrong = subprocess.run([*argv, "ftharness.failover.lock"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, "say package.module:Class" in wrong.stderr) == (2, True)


def test_a_lock_that_there_is_not(tmp_path: Path) -> None:
    """Is no verdict: it is a mistake of the caller's."""
    with pytest.raises(LookupError, match=r"cannot make the lock ftharness\.failover\.lock:Flok"):
        CHECKS[0]("ftharness.failover.lock:Flok", tmp_path)
