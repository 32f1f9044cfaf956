"""What jobs came to, where the scenario asks for their results, or for what became of their leases."""

from ftharness.scenario.record import ScenarioRecord

_SAY = ("results_exact()", "leases_conserved()")


def jobs_done(record: ScenarioRecord) -> str:
    """``job-1.3: 200 of 200 items, each once and exact``, as ``results_exact`` says where it holds; else empty.

    Of leases ``187 leases = 183 released + 4 revoked``, as ``leases_conserved`` says.
    """
    held = (one for one in record.oracles if one.name in _SAY and one.verdict == "pass")
    return next((one.reason for one in held), "")
