"""The oracles of jobs, on histories made by hand: what each passes, what each fails, and what it cannot know.

Their lines are read by the contract, as those of a real job are.
"""

from collections.abc import Callable
from typing import Any

import pytest

from ftharness.history import (
    Event,
    FaultHealed,
    FaultLanded,
    FaultRequested,
    History,
    Log,
    ProcessExited,
    ProcessSignalled,
    ProcessStarted,
    RunPhase,
    RunStarted,
)
from ftharness.logs import Scanner, load_contract
from ftharness.scenario.case import Case, Finding
from ftharness.scenario.oracles.jobs import job_completes, results_exact
from ftharness.scenario.oracles.jobs_checkpoints import corruption_found, full_disk_told, resumes_from_checkpoints
from ftharness.scenario.oracles.jobs_retries import poison_given_up, retries_follow_policy

MS = 1_000_000
BEGIN = "job_started items=40 batches=4 ranks=0 spot_retry_s=0.5 max_retries_transient=1 max_retries_poison=2"
FULL = "ERROR ftharness.checkpoint: /d/shard_0/batch_00002.pt is not committed: No space left on device"


def result(rank: int, attempt: int, batch: int, ids: str, digest: int) -> str:
    return f"result rank={rank} attempt={attempt} batch={batch} ids={ids} digest={digest:016x}"


def of_rank(event: str, batch: int, *, rank: int = 0, attempt: int = 1) -> str:
    ids = f"{rank * 20 + batch * 10}-{rank * 20 + batch * 10 + 9}"
    return f"{event} rank={rank} attempt={attempt} batch={batch} ids={ids}"


def ended(attempt: int, kind: str, decision: str, *, shard: int = 0, worker: int = 0, batch: str = "") -> str:
    head = f"attempt_ended shard={shard} worker={worker} attempt={attempt} kind={kind} decision={decision}"
    return f"{head} delay_s=9 batch={batch} reason=whatever it said"


class Jobs:
    """A run of jobs, from the control's end on: four batches of ten items, whose digests are 1, 2, 4 and 8."""

    def __init__(self) -> None:
        self.events: list[tuple[float, Event]] = []
        self._scanner = Scanner(load_contract("job", "1"))
        self.add(0, RunStarted(source="harness", scenario="a/b", stack="sim"))
        self.begins(1, "control-job-1")
        self.says(2, "control-job-1", BEGIN, "rank_started rank=0 pid=1 attempt=1")
        self.says(3, "control-job-1", *(result(0, 1, batch, f"{batch}0-{batch}9", 1 << batch) for batch in range(4)))
        self.says(4, "control-job-1", "job_finished items=40 digest=f")
        self.add(5, ProcessExited(source="control-job-1", pid=1, returncode=0))
        self.add(6, RunPhase(source="harness", phase="fault"))

    def add(self, t_ms: float, event: Event) -> None:
        self.events.append((t_ms, event))

    def begins(self, t_ms: float, name: str) -> None:
        self.add(t_ms, ProcessStarted(source=name, pid=1, role="job"))

    def says(self, t_ms: float, name: str, *lines: str) -> None:
        """Each line 0.01 ms after the one before, by what the contract makes of it."""
        for place, line in enumerate(lines):
            text = line if "ftharness." in line else f"[job] {line}"
            (match,) = self._scanner.feed(f"{text}\n".encode(), 0)
            event = Log(source=name, event=match.event, captures=match.captures, line=match.line)
            self.add(t_ms + place / 100, event)

    def hit(self, t_ms: float, fault: str, name: str = "job-1", **evidence: Any) -> str:
        fault_id = f"fault-{len(self.events)}"
        self.add(t_ms, FaultRequested(source="harness", id=fault_id, fault=fault, target=name))
        self.add(t_ms, FaultLanded(source=name, id=fault_id, evidence=evidence))
        if fault == "kill":
            self.add(t_ms, ProcessSignalled(source=name, pid=1, signal="SIGKILL", reason="fault"))
            self.add(t_ms + 1, ProcessExited(source=name, pid=1, signal="SIGKILL"))
        return fault_id

    def exits(self, t_ms: float, name: str, status: int) -> None:
        self.add(t_ms, ProcessExited(source=name, pid=1, returncode=status))

    def first_life(self) -> "Jobs":
        """It commits 0-19, begins with 20-29, and is killed."""
        self.begins(10, "job-1")
        self.says(11, "job-1", BEGIN, "rank_started rank=0 pid=1 attempt=1")
        self.says(12, "job-1", "job_resumed rank=0 attempt=1 recovered= corrupted= next=0")
        for batch in (0, 1):
            self.says(13 + batch, "job-1", of_rank("batch_started", batch), of_rank("batch_computed", batch))
        self.says(15, "job-1", "checkpoint_committed rank=0 checkpoint=0 ids=0-19", of_rank("batch_started", 2))
        self.hit(16, "kill")
        return self

    def second_life(
        self, *, recovered: str = "0-19", corrupted: str = "", computed: tuple[int, ...] = (2, 3), **how: Any
    ) -> "Jobs":
        """It recovers that, and does the rest."""
        name = "job-1.2"
        self.begins(20, name)
        self.says(21, name, BEGIN, "rank_started rank=0 pid=2 attempt=1")
        self.says(22, name, f"job_resumed rank=0 attempt=1 recovered={recovered} corrupted={corrupted} next=1")
        if recovered:
            self.says(23, name, result(0, 1, -1, recovered, how.get("digest", 3)))
        for batch in computed:
            lines = [of_rank("batch_started", batch), of_rank("batch_computed", batch)]
            self.says(24 + batch, name, *lines, result(0, 1, batch, f"{batch}0-{batch}9", 1 << batch))
        self.says(30, name, how.get("last", "job_finished items=40 digest=f"))
        self.exits(31, name, how.get("status", 0))
        return self

    def judged(self, oracle: Callable[..., Finding], **args: Any) -> Finding:
        history = History(start_ns=0)
        for t, event in sorted(self.events, key=lambda pair: pair[0]):
            history.append(event, at=int(t * MS))
        return oracle(Case(list(history.events)), **args)


@pytest.fixture
def killed() -> Jobs:
    return Jobs().first_life()


@pytest.fixture
def resumed() -> Jobs:
    return Jobs().first_life().second_life()


ORACLES = [
    job_completes,
    results_exact,
    resumes_from_checkpoints,
    corruption_found,
    full_disk_told,
    retries_follow_policy,
    poison_given_up,
]


@pytest.mark.parametrize("oracle", ORACLES)
def test_without_a_job_nothing_is_known(oracle: Callable[..., Finding]) -> None:
    """A run of none says nothing of any."""
    assert Jobs().judged(oracle).verdict == "unknown"


def test_a_good_resume(resumed: Jobs) -> None:
    """What it says of one that recovered all that had been committed, and gave everything once."""
    assert resumed.judged(job_completes).reason == "job-1.2 ended with 0, life 2 of its job"
    assert resumed.judged(results_exact).reason == "job-1.2: 40 of 40 items, each once and exact"
    found = resumed.judged(resumes_from_checkpoints)
    assert found.reason == (
        "job-1: 20 items that had been committed were recovered, by 1 resumes, and not computed again"
    )
    assert {found.verdict, resumed.judged(job_completes).verdict, resumed.judged(results_exact).verdict} == {"pass"}


def test_a_job_completes_with_its_status_and_its_word(killed: Jobs) -> None:
    """Not without an end, nor by the wrong one; who was killed and not started again shows nothing."""
    assert killed.judged(job_completes).verdict == "unknown"
    killed.begins(20, "job-1.2")
    found = killed.judged(job_completes)
    assert (found.verdict, found.pending) == ("fail", True)
    killed.says(21, "job-1.2", "job_failed error=RuntimeError: no memory")
    killed.exits(22, "job-1.2", 1)
    found = killed.judged(job_completes)
    assert (found.verdict, found.invariant) == ("fail", True)
    assert "exit status 1, not with 0: [job] job_failed error=RuntimeError: no memory" in found.reason
    assert killed.judged(job_completes, status=1).verdict == "pass"


def test_an_end_that_nobody_announced(resumed: Jobs) -> None:
    """With 3 a job has to say what it gave up; and one that the teardown ends did not complete."""
    other = Jobs().first_life().second_life(status=3)
    assert "never said job_incomplete" in other.judged(job_completes, status=3).reason
    resumed.add(30.5, RunPhase(source="harness", phase="teardown"))
    assert "the teardown ended it" in resumed.judged(job_completes).reason


@pytest.mark.parametrize(
    "life,said",
    [
        ({"computed": (2,)}, "30-39 lost"),
        ({"computed": (1, 2, 3)}, "10-19 doubled"),
        ({"digest": 7}, "0-19 altered"),
        ({"computed": (2, 3, 4)}, "40-49 never asked for"),
        ({"recovered": "", "digest": 0}, "0-19 lost"),
    ],
)
def test_results_that_are_not_exact(killed: Jobs, life: dict[str, Any], said: str) -> None:
    """Each by name."""
    found = killed.second_life(**life).judged(results_exact)
    assert (found.verdict, found.invariant) == ("fail", True)
    assert said in found.reason


def test_results_that_cannot_be_compared(killed: Jobs) -> None:
    """Without an end there are none; in other pieces their digests say nothing; batches given up by name are not expected."""
    assert "did not come to its end" in killed.judged(results_exact).reason
    pieces = Jobs().first_life().second_life(recovered="0-14", digest=2)
    pieces.says(24, "job-1.2", result(0, 1, 1, "15-19", 1))
    assert pieces.judged(results_exact).verdict == "unknown"
    found = without_the_last().judged(results_exact)
    assert found.verdict == "pass"
    assert found.reason.endswith("30 of 40 items, each once and exact; 30-39 given up")


def without_the_last(*more: str, named: str = "30-39", missing: str = "30-39") -> Jobs:
    """Batch 3 is begun, and given up."""
    one = Jobs().first_life().second_life(computed=(2,), last=f"job_incomplete missing={missing} why=poison", status=3)
    one.says(28, "job-1.2", of_rank("batch_started", 3), *more, f"batch_given_up shard=0 batch=3 ids={named}")
    return one


@pytest.mark.parametrize(
    "one,said",
    [
        (without_the_last(named="20-39"), "batch 3 of shard 0 was given up as 20-39, and holds 30-39"),
        (without_the_last(result(0, 1, 3, "30-39", 8)), "30-39 given up, and given all the same"),
        (without_the_last(missing="35-39"), "30-39 missing, and 35-39 was said to be"),
        (
            Jobs().first_life().second_life(last="job_finished items=39 digest=f"),
            "39 items of digest f were said to be done, 40 were given",
        ),
        (
            Jobs().first_life().second_life(last="job_finished items=40 digest=e"),
            "40 items of digest e were said to be done, 40 were given",
        ),
    ],
)
def test_words_that_results_belie(one: Jobs, said: str) -> None:
    """Whoever names more than a batch excuses nothing by it; what a job says last has to be so."""
    found = one.judged(results_exact)
    assert (found.verdict, said in found.reason) == ("fail", True), found.reason


def test_an_end_by_sigterm_is_a_faults_as_well() -> None:
    """The job writes its last checkpoint, and ends with the status that says so: nobody started it again."""
    one = Jobs()
    one.begins(10, "job-1")
    one.says(11, "job-1", BEGIN, "rank_started rank=0 pid=1 attempt=1")
    one.add(12, ProcessSignalled(source="job-1", pid=1, signal="SIGTERM", reason="fault"))
    one.exits(13, "job-1", 143)
    found = one.judged(job_completes)
    assert (found.verdict, "not started again" in found.reason) == ("unknown", True)


def test_a_policy_that_nobody_told() -> None:
    """Without the job's first line there is nothing to judge by."""
    one = ranks(SPOT, AGAIN, DONE)
    one.events = [(t, event) for t, event in one.events if getattr(event, "event", "") != "job_started"]
    found = one.judged(retries_follow_policy)
    assert (found.verdict, "did not say that it began" in found.reason) == ("unknown", True)


@pytest.mark.parametrize(
    "life,said",
    [
        ({"recovered": "0-9"}, "10-19 had been said to be committed, and was not recovered"),
        ({"recovered": "0-39"}, "30-39 was recovered, and nobody had begun it"),
        ({"computed": (1, 2, 3)}, "10-19 had been recovered, and was computed again"),
    ],
)
def test_a_resume_that_is_none(killed: Jobs, life: dict[str, Any], said: str) -> None:
    """What was committed is not there, what is there was not committed, or it is done twice."""
    found = killed.second_life(**life).judged(resumes_from_checkpoints)
    assert (found.verdict, said in found.reason) == ("fail", True)


def test_what_was_being_committed_may_be_recovered(killed: Jobs) -> None:
    """The kill may have come between the commit and its word: of what had been begun that is no wonder."""
    found = killed.second_life(recovered="0-29", computed=(3,)).judged(resumes_from_checkpoints)
    assert found.verdict == "pass"


def test_checkpoints_count_up_to_the_first_that_is_not_whole(killed: Jobs) -> None:
    """What is behind one that was damaged, or never committed, need not be recovered."""
    killed.says(15.5, "job-1", "checkpoint_committed rank=0 checkpoint=2 ids=30-39")
    assert killed.second_life().judged(resumes_from_checkpoints).verdict == "pass"
    damaged = Jobs().first_life()
    damaged.hit(18, "corrupt_checkpoint", rank=0, checkpoint=0, how="flip", ids="0-19")
    damaged.second_life(recovered="", corrupted="0-19", computed=(0, 1, 2, 3))
    found = damaged.judged(resumes_from_checkpoints)
    assert (found.verdict, "behind, a checkpoint that a fault damaged" in found.reason) == ("unknown", True)


@pytest.mark.parametrize(
    "life,verdict,said",
    [
        ({"recovered": "", "corrupted": "0-19", "computed": (0, 1, 2, 3)}, "pass", "found, and 0-19 computed again"),
        ({"recovered": "", "corrupted": "batch_0_LOST", "computed": (0, 1, 2, 3)}, "pass", "computed again"),
        ({}, "fail", "0-19 was recovered from it"),
        ({"recovered": "", "corrupted": "0-9", "computed": (0, 1, 2, 3)}, "fail", "said to be damaged: 0-9"),
        ({"recovered": "", "corrupted": "0-19", "computed": (0, 2, 3)}, "fail", "10-19 was not computed again"),
    ],
)
def test_corruption(killed: Jobs, life: dict[str, Any], verdict: str, said: str) -> None:
    """It has to be said, by the ids or by the checkpoint, and computed again."""
    killed.hit(18, "corrupt_checkpoint", rank=0, checkpoint=0, how="flip", ids="0-19")
    assert killed.judged(corruption_found).verdict == "unknown"
    found = killed.second_life(**life).judged(corruption_found)
    assert (found.verdict, said in found.reason) == (verdict, True)


def test_what_is_put_aside_is_found(killed: Jobs) -> None:
    """A coordinator that quarantines the checkpoint has said so."""
    killed.hit(18, "corrupt_checkpoint", rank=0, checkpoint=0, how="remove_marker", ids="0-19")
    said = (
        "WARNING ftharness.coordinator: /d/shard_0/batch_00000.pt: a checkpoint without its marker; moved to quarantine"
    )
    killed.says(21.5, "job-1", said)
    assert killed.second_life(recovered="", computed=(0, 1, 2, 3)).judged(corruption_found).verdict == "pass"


def full(*lines: str, freed: float = 19) -> Jobs:
    """The disk is full from 15.5 ms on, and the job says this while it is."""
    one = Jobs().first_life()
    one.hit(15.5, "fill_disk", free_bytes=0)
    one.says(15.6, "job-1", of_rank("batch_computed", 2), of_rank("batch_started", 3), *lines)
    one.hit(freed, "free_disk")
    return one


def test_a_full_disk_that_is_told() -> None:
    """A failure as the kernel says it, and what was committed before is recovered."""
    told = full(FULL)
    assert told.judged(full_disk_told).verdict == "unknown", "nobody has resumed yet"
    found = told.second_life().judged(full_disk_told)
    assert (found.verdict, "1 checkpoints failed" in found.reason) == ("pass", True)


@pytest.mark.parametrize(
    "lines,recovered,said",
    [
        ((FULL, "checkpoint_committed rank=0 checkpoint=1 ids=20-29"), "0-19", "was said to be committed"),
        (
            (
                "checkpoint_committed rank=0 checkpoint=1 ids=20-29",
                "checkpoint_committed rank=0 checkpoint=2 ids=30-39",
            ),
            "0-19",
            "checkpoint 2 of rank 0 was said to be committed",
        ),
        (
            tuple(of_rank("batch_computed", batch) for batch in (3, 4, 5)),
            "0-19",
            "nobody said that a checkpoint failed",
        ),
        ((FULL.replace("No space left on device", "Input/output error"),), "0-19", "the kernel says"),
        ((FULL,), "0-9", "10-19 had been committed before the disk was full, and was not recovered"),
    ],
)
def test_a_full_disk_that_is_not_told(lines: tuple[str, ...], recovered: str, said: str) -> None:
    """A commit that was none, silence, another reason, and what was there before."""
    found = full(*lines).second_life(recovered=recovered).judged(full_disk_told)
    assert (found.verdict, said in found.reason) == ("fail", True)


def test_a_full_disk_on_which_nothing_was_due() -> None:
    """Nothing was tried, so nothing was shown; what was on its way when it became full may still be committed."""
    assert full().second_life().judged(full_disk_told).verdict == "unknown"
    late = Jobs().first_life()
    fault_id = late.hit(
        14.5, "fill_disk", free_bytes=0
    )  # checkpoint 0 is said to be committed at 15 ms, of what was computed
    late.says(15.6, "job-1", FULL)
    late.add(19, FaultHealed(source="job-1", id=fault_id))
    assert "nothing had been committed before" in late.second_life().judged(full_disk_told).reason


def ranks(*more: tuple[float, str], status: int = 0) -> Jobs:
    """A job whose rank 0 is preempted 20 ms after its begin, and what its log says from then on."""
    one = Jobs()
    one.begins(10, "job-1")
    one.says(11, "job-1", BEGIN, "attempt_started shard=0 worker=0 attempt=1", "rank_started rank=0 pid=7 attempt=1")
    one.says(29, "job-1", of_rank("batch_started", 0))
    one.hit(30, "kill_rank", engine_pid=7, rank=0, signal="SIGTERM")
    for t, line in more:
        one.says(t, "job-1", line)
    one.exits(9000, "job-1", status)
    return one


SPOT = (31.0, ended(1, "spot", "retry"))
AGAIN = (540.0, "attempt_started shard=0 worker=0 attempt=2")
DONE = (8000.0, ended(2, "", "done"))


def test_a_preemption_that_is_retried() -> None:
    """After the configured time, once."""
    late = (300.0, SPOT[1])  # the line of the end is read late
    assert ranks(late, (535.0, AGAIN[1]), DONE).judged(retries_follow_policy).verdict == "fail", "too late to be seen"
    assert ranks((200.0, SPOT[1]), (535.0, AGAIN[1]), DONE).judged(retries_follow_policy).verdict == "pass"
    found = ranks(SPOT, AGAIN, DONE).judged(retries_follow_policy)
    assert (found.verdict, found.reason) == ("pass", "job-1: 2 attempts; ended early: 1 spot")


@pytest.mark.parametrize(
    "lines,said",
    [
        ([SPOT, (200.0, AGAIN[1]), DONE], "tried again after 0.17 s, not after 0.5 s"),
        ([SPOT, (520.0, AGAIN[1]), DONE], "tried again after 0.49 s, not after 0.5 s"),
        ([SPOT, AGAIN, (700.0, "attempt_started shard=0 worker=0 attempt=3")], "attempt 2 had not ended"),
        ([SPOT, DONE], "was to be tried again, and never was"),
        ([(31.0, ended(1, "spot", "gave_up"))], "the decision was gave_up, not retry"),
        ([(31.0, ended(1, "", "done"))], "taken for the end of its work, not for spot"),
        ([(31.0, ended(1, "transient", "retry")), AGAIN], "taken for transient, not for spot"),
        ([AGAIN], "its end was not noticed"),
        ([SPOT, AGAIN, DONE, (8100.0, "attempt_started shard=0 worker=0 attempt=3")], "was tried once more"),
        (
            [SPOT, AGAIN, (600.0, ended(2, "oom", "retry")), (1050.0, "attempt_started shard=0 worker=0 attempt=3")],
            "tried again after 0.45 s, not after 1 s",
        ),
        (
            [
                SPOT,
                AGAIN,
                (600.0, ended(2, "oom", "retry")),
                (1650.0, "attempt_started shard=0 worker=0 attempt=3"),
                (1700.0, ended(3, "transient", "retry")),
            ],
            "the decision was retry, not gave_up",
        ),
    ],
)
def test_a_policy_that_is_not_followed(lines: list[tuple[float, str]], said: str) -> None:
    """Too soon, not at all, with another decision, for another reason, or once too often."""
    found = ranks(*lines).judged(retries_follow_policy)
    assert (found.verdict, found.invariant) == ("fail", True)
    assert said in found.reason


def test_what_no_policy_was_asked_about() -> None:
    """Where no attempt failed; and where the job itself was killed before the next was due."""
    calm = Jobs()
    calm.begins(10, "job-1")
    calm.says(11, "job-1", BEGIN, "attempt_started shard=0 worker=0 attempt=1", ended(1, "", "done"))
    assert calm.judged(retries_follow_policy).verdict == "unknown"
    cut = ranks(SPOT)
    cut.events = [(t, event) for t, event in cut.events if t < 9000]
    cut.hit(100, "kill")
    assert cut.judged(retries_follow_policy).verdict == "pass"


def poisoned(*, tries: int = 2, told: bool = True, lost: bool = False) -> Jobs:
    """Batch 1 of rank 0 is struck twice, and given up; the rest of it is done by another worker."""
    one = Jobs()
    one.begins(10, "job-1")
    one.says(11, "job-1", BEGIN)
    for number in range(1, 3):
        t = number * 2000.0
        one.says(t, "job-1", f"attempt_started shard=0 worker=0 attempt={number}")
        one.says(t + 1, "job-1", f"rank_started rank=0 pid={number} attempt={number}")
        one.says(t + 2, "job-1", of_rank("batch_started", 1, attempt=number))
        one.hit(t + 3, "kill_rank", engine_pid=number, rank=0, signal="SIGSEGV")
        one.says(t + 4, "job-1", ended(number, "poison", "gave_up" if number == tries else "retry", batch="1"))
    for number in range(3, tries + 1):
        one.says(6000, "job-1", f"attempt_started shard=0 worker=0 attempt={number}")
        one.says(6002, "job-1", of_rank("batch_started", 1, attempt=number))
    if told:
        one.says(6003, "job-1", "batch_given_up shard=0 batch=1 ids=10-19")
    one.says(6004, "job-1", "rank_started rank=0 pid=9 attempt=4")
    batches = (0, 2) if lost else (0, 2, 3)
    one.says(6005, "job-1", *(result(0, 4, batch, f"{batch}0-{batch}9", 1 << batch) for batch in batches))
    return one


def test_poison_is_given_up() -> None:
    """At its second strike, and nothing else with it; the policy says just that, too."""
    found = poisoned().judged(poison_given_up)
    assert (found.verdict, "given up at strike 2; all else is done" in found.reason) == ("pass", True)
    assert poisoned().judged(retries_follow_policy).verdict == "pass"
    assert poisoned().judged(poison_given_up, strikes=3).reason == "no batch was struck 3 times"


@pytest.mark.parametrize(
    "how,said",
    [
        ({"tries": 3}, "tried 3 times, not 2"),
        ({"told": False}, "nobody said that it was given up"),
        ({"lost": True}, "given up, and with it 30-39"),
    ],
)
def test_poison_that_is_not_given_up_rightly(how: dict[str, Any], said: str) -> None:
    """Tried once more, dropped without a word, or with all that came after it."""
    found = poisoned(**how).judged(poison_given_up)
    assert (found.verdict, said in found.reason) == ("fail", True)
