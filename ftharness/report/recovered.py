"""What the figures of a recovery mean for the stream that a fault was aimed at."""

from ftharness.report.clean import one_line
from ftharness.report.units import milliseconds
from ftharness.scenario.record import Recovery


def next_token_ms(recovery: Recovery) -> float | None:
    """How long after the fault tokens came again, in ms; None where they had not stopped, as while a worker drains.

    Without a reroute the record has the token that ended the longest wait since. Where that came later than any wait is long,
    others came before it, and it is not the next one after the fault.
    """
    first, gap = recovery.first_token_ms, recovery.max_gap_ms
    flowed_on = recovery.reroute_ms is None and first is not None and gap is not None and first > gap
    return None if flowed_on else first


def given_up(recovery: Recovery) -> str:
    """What became of a request whose client went away: ``given up in decode-1 after 1.62 ms, told prefill-1``; or empty."""
    told = f"told {one_line(recovery.told, 80)}" if recovery.told else ""
    if recovery.given_up_ms is None:
        return told
    said = f"given up in {one_line(recovery.given_up_by, 40)} after {milliseconds(recovery.given_up_ms)}"
    return f"{said}, {told}" if told else said


def went_on(recovery: Recovery) -> str:
    """How the stream went on, in words: ``next token 14.6 ms later``, ``longest gap 5.2 ms``; empty where it did not."""
    if words := given_up(recovery):
        return words
    first = next_token_ms(recovery)
    if first is not None:
        return f"next token {milliseconds(first)} later"
    return "" if recovery.max_gap_ms is None else f"longest gap {milliseconds(recovery.max_gap_ms)}"
