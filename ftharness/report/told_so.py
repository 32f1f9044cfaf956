"""Requests that were lost with an engine and told so, where the scenario asks for no more than that."""

from ftharness.scenario.record import ScenarioRecord


def told_so(record: ScenarioRecord) -> str:
    """``28 answered, 4 failed and were told so``, as ``ends_cleanly`` says; empty where every token is asked for.

    Tokens that never came are then no loss that anybody has to explain: their requests were told that they failed.
    """
    if any(one.name.startswith("tokens_exact(") for one in record.oracles):
        return ""
    held = (one for one in record.oracles if one.name == "ends_cleanly()" and one.verdict == "pass")
    reason = next((one.reason for one in held), "")
    return "" if ", 0 failed" in reason else reason
