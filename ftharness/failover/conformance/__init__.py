"""What any failover lock has to stand, as checks of one's own lock on real processes.

A lock is named as ``package.module:Class`` or ``path/file.py:Class``; the class is called with the lock file's path, in processes
that the checks start, stop and kill. In pytest::

    @pytest.mark.parametrize("check", CHECKS, ids=str)
    def test_my_lock(check, tmp_path):
        check("my_package.my_lock:MyLock", tmp_path)

and in a shell: ``python -m ftharness.failover.conformance my_package.my_lock:MyLock``.
"""

from ftharness.failover.conformance.check import Check, NonConformance
from ftharness.failover.conformance.faults import FAULTS
from ftharness.failover.conformance.promises import PROMISES

#: All checks, in the order in which they are best read: what a lock promises, then what befalls it.
CHECKS: tuple[Check, ...] = (*PROMISES, *FAULTS)

__all__ = ["CHECKS", "Check", "NonConformance"]
