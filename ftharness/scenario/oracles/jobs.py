"""What came of a job: ``job_completes``, ``results_exact``."""

from collections import Counter

from ftharness.engine.job_digest import added, read
from ftharness.history import Log
from ftharness.id_ranges import ids_in, ranges
from ftharness.scenario.case import Case, Finding, short_of_passing
from ftharness.scenario.oracles.jobs_lives import (
    NO_JOB,
    JobView,
    given_up,
    ids,
    jobs,
    killed,
    last_results,
    lines,
    misnamed,
    option,
)
from ftharness.scenario.oracles.processes import said

#: What a job says last, by the status that it ends with.
_LAST_WORD = {0: "job_finished", 1: "job_failed", 3: "job_incomplete"}


def job_completes(case: Case, status: int = 0) -> Finding:
    """The last life of each job ended by itself with this status, and said so."""
    found = [_completed(case, job, status) for job in jobs(case)]
    if not found:
        return NO_JOB
    if finding := short_of_passing(found):
        return finding
    return Finding("pass", "; ".join(one.reason for one in found), tuple(n for one in found for n in one.evidence))


def _completed(case: Case, job: JobView, status: int) -> Finding:
    ended = case.exits.get(job.last)
    if ended is None:
        return Finding("fail", f"{job.last} did not end", pending=True)
    if not case.ended_in_phase(job.last):
        return Finding("fail", f"{job.last} did not end by itself: the teardown ended it", (ended.n,))
    signals = case.signals_to(job.last)
    if any(one.reason == "teardown" for one in signals):
        was_told = any((one.signal, one.reason) == ("SIGTERM", "fault") for one in signals)
        if option(case, job.last, "--until-told") == "true" and not was_told:
            return Finding("unknown", f"{job.last} goes on until it is told to end, and no fault told it", (ended.n,))
        late = f"{job.last} had not ended when its phase was over, and was ended by {said(ended)}"
        return Finding("fail", late, (ended.n,), invariant=True)
    if killed(case, job.last):
        return Finding("unknown", f"{job.last} was ended by {said(ended)}, and not started again", (ended.n,))
    words = list(lines(case, job.last, *_LAST_WORD.values()))
    told = f": {words[-1].line}" if words else ""
    evidence = (*(word.n for word in words[-1:]), ended.n)
    if ended.returncode != status:
        # A job that fails does so whatever else was to strike it: what it would have struck may never come.
        failed = ended.returncode not in (0, 3)
        return Finding(
            "fail", f"{job.last} ended by {said(ended)}, not with {status}{told}", evidence, invariant=failed
        )
    wanted = _LAST_WORD.get(status)
    if wanted and not any(word.event == wanted for word in words):
        return Finding("fail", f"{job.last} ended with {status}, and never said {wanted}{told}", evidence)
    return Finding("pass", f"{job.last} ended with {status}, life {len(job.lives)} of its job", evidence)


def results_exact(case: Case) -> Finding:
    """Every item came once, and as without the faults; but for those of batches that were given up, which are named.

    What counts is what the last attempt of each rank of the last life gave, with what it recovered. Results are compared by
    digest: that of any batches is the sum of theirs.
    """
    found = [_exact(case, job) for job in jobs(case)]
    if not found:
        return NO_JOB
    if finding := short_of_passing(found):
        return finding
    return Finding("pass", "; ".join(one.reason for one in found), tuple(n for one in found for n in one.evidence))


def _exact(case: Case, job: JobView) -> Finding:
    reference = list(lines(case, job.control, "result"))
    if not (reference and any(lines(case, job.control, "job_finished"))):
        return Finding("unknown", f"{job.control} did not finish: there is nothing to compare with")
    ends = list(lines(case, job.last, "job_finished", "job_incomplete"))
    if not ends:
        return Finding("unknown", f"{job.last} did not come to its end, so it has no results")
    results, poison = last_results(case, job.last), given_up(case, job.last)
    count = Counter(name for line in results for name in ids_in(line.captures["ids"]))
    expected = {name for line in reference for name in ids(line)}
    wrong = {
        "lost": expected - count.keys() - poison,
        "doubled": {name for name, times in count.items() if times > 1},
        "given up, and given all the same": poison & count.keys(),
        "never asked for": count.keys() - expected,
        "altered": {name for line in results if _same(line, reference) is False for name in ids(line)},
    }
    bad = [f"{ranges(names)} {how}" for how, names in wrong.items() if names]
    bad += [why for why in (misnamed(case, job.last), _belied(ends[-1], results, expected - count.keys())) if why]
    evidence = tuple(line.n for line in results if any(ids(line) & names for names in wrong.values()))
    if bad:
        what = f"of {len(expected)} items of {job.last}: {'; '.join(bad)}"
        # Whatever faults came to: a job that says that it is done has it all.
        return Finding("fail", what, (*evidence, ends[-1].n), invariant=True)
    for line in results:
        if _same(line, reference) is None:
            what = (
                f"{job.last}: {line.captures['ids']} came in other pieces than without the faults: digests cannot tell"
            )
            return Finding("unknown", what, (line.n,))
    left = f"; {ranges(poison)} given up" if poison else ""
    return Finding(
        "pass", f"{job.last}: {len(count)} of {len(expected)} items, each once and exact{left}", (ends[-1].n,)
    )


def _belied(end: Log, results: list[Log], missing: set[str]) -> str:
    """What a job's last word says that its results do not; "" where they agree."""
    if end.event == "job_incomplete":
        said = ids(end, "missing")
        return (
            ""
            if said == missing
            else f"{ranges(missing) or 'nothing'} missing, and {ranges(said) or 'nothing'} was said to be"
        )
    count = sum(len(ids_in(line.captures["ids"])) for line in results)
    total = added(*(read(line.captures["digest"]) for line in results))
    if (int(end.captures["items"]), read(end.captures["digest"])) != (count, total):
        return (
            f"{end.captures['items']} items of digest {end.captures['digest']} were said to be done, {count} were given"
        )
    return ""


def _same(line: Log, reference: list[Log]) -> bool | None:
    """Whether these results have the digest of the same ones without the faults; None where these cannot be put together."""
    mine = ids(line)
    parts = [part for part in reference if ids(part) <= mine]
    if {name for part in parts for name in ids(part)} != mine:
        return None
    return added(*(read(part.captures["digest"]) for part in parts)) == read(line.captures["digest"])
