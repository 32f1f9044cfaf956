"""What jobs came to, where the scenario asks for their results."""

from ftharness.scenario.record import ScenarioRecord


def jobs_done(record: ScenarioRecord) -> str:
    """``job-1.3: 200 of 200 items, each once and exact``, as ``results_exact`` says where it holds; else empty."""
    held = (one for one in record.oracles if one.name == "results_exact()" and one.verdict == "pass")
    return next((one.reason for one in held), "")
