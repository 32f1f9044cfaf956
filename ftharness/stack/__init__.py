"""Stacks: how the same topology is launched as our simulation, as the released Dynamo, or by a file of the user's.

A stack is a :class:`StackKind`, found by the entry point group ``ftharness.stacks``.
"""

from ftharness.stack.choice import find_stack
from ftharness.stack.dynamo_behaviour import known_behaviours
from ftharness.stack.job import Job, inference, leases
from ftharness.stack.plan import Launch, NotApplicable, NotAvailable, Plan, Settings, StackKind
from ftharness.stack.running import RunningStack, StackFailed
from ftharness.stack.topology import Topology, aggregated, alone, disaggregated, jobs_only, pooled

__all__ = [
    "Job",
    "Launch",
    "NotApplicable",
    "NotAvailable",
    "Plan",
    "RunningStack",
    "Settings",
    "StackFailed",
    "StackKind",
    "Topology",
    "aggregated",
    "alone",
    "disaggregated",
    "find_stack",
    "inference",
    "jobs_only",
    "known_behaviours",
    "leases",
    "pooled",
]
