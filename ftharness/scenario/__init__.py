"""Scenarios: what to do to a stack and what to expect, as data; and the judgement over the history."""

from ftharness.scenario.expect import Expect
from ftharness.scenario.expectations import (
    every_request_ends,
    exits_as,
    exits_explained,
    fails_with,
    gap_within,
    logged,
    migrated,
    never_logged,
    no_leaks,
    not_migrated,
    recovers_within,
    succeeds,
    tokens_exact,
    ttft_within,
    usage_correct,
)
from ftharness.scenario.judge import judge
from ftharness.scenario.record import ScenarioRecord, Verdict, worst
from ftharness.scenario.scenario import Scenario
from ftharness.scenario.trigger import Injection, Trigger, after_fault, at, on_log, on_token, when

__all__ = [
    "Expect",
    "Injection",
    "Scenario",
    "ScenarioRecord",
    "Trigger",
    "Verdict",
    "after_fault",
    "at",
    "every_request_ends",
    "exits_as",
    "exits_explained",
    "fails_with",
    "gap_within",
    "judge",
    "logged",
    "migrated",
    "never_logged",
    "no_leaks",
    "not_migrated",
    "on_log",
    "on_token",
    "recovers_within",
    "succeeds",
    "tokens_exact",
    "ttft_within",
    "usage_correct",
    "when",
    "worst",
]
