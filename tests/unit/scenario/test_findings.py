"""Known findings: what their files may say, which failures they explain, and what is said of those that did not show."""

import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ftharness.client import completion
from ftharness.faults import kill, serving
from ftharness.history import ContractChosen, FaultLanded, FaultRequested, Leak
from ftharness.logs import TomlError
from ftharness.report import RunRecord, exit_status
from ftharness.scenario import (
    ScenarioRecord,
    findings,
    judge,
    logged,
    migrated,
    on_token,
    recovers_within,
    succeeds,
    tokens_exact,
)
from ftharness.scenario.findings import known_findings, read_finding, strangers
from ftharness.scenario.runner import Cell
from ftharness.scenario.scenario import Scenario
from ftharness.session import cell_of

Make = Callable[..., Any]
Write = Callable[..., Path]

SCENARIO = Scenario(
    name="a/b",
    workload=[completion("Once", max_tokens=10)],
    faults=[on_token(5).inject(kill(serving))],
    expect=[succeeds(), migrated(times=1), tokens_exact()],
)
ORPHAN = """
title = "An engine outlives its worker"
what = "The engine's process is still there."
stack = "sim"
versions = "==1.0"
scenarios = ["a/*"]
seen = "9 of 9"
since = 2026-01-31
[[shows]]
oracle = "no_leaks"
reason = "process of worker-1: engine [0-9]+$"
"""
SHORT = """
title = "An answer that breaks off"
what = "The stream ends early."
stack = ["other", "sim"]
versions = ">=0.9,<=1.1"
scenarios = ["a/b", "a/c"]
seen = "6 of 9"
since = 2026-01-31
[[shows]]
oracle = "succeeds"
reason = "stream broke off"
[[shows]]
oracle = "tokens_exact"
reason = "lost|of 10 tokens"
[[shows]]
oracle = "recovers_within"
reason = "no two tokens"
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """``write(name, text, old, new, …)``: one more finding that ships, with texts replaced; returns its file."""

    def one(name: str, text: str, *edits: str) -> Path:
        folder = tmp_path / f"findings-{len(list(tmp_path.iterdir()))}"  # a folder is read once
        folder.mkdir()
        for before in findings.SHIPPED.glob("*.toml"):
            (folder / before.name).write_text(before.read_text())
        for old, new in zip(edits[::2], edits[1::2], strict=True):
            assert old in text
            text = text.replace(old, new)
        (folder / f"{name}.toml").write_text(text)
        monkeypatch.setattr(findings, "SHIPPED", folder)
        return folder / f"{name}.toml"

    monkeypatch.setattr(findings, "SHIPPED", tmp_path / "none")
    return one


def orphan(one: Any, *more: str) -> Any:
    """A good migration, after which these outlive worker-1."""
    one.migrates()
    for place, detail in enumerate(more or ("engine 40133",)):
        one.add(180 + place, Leak(source="worker-1", what="process", detail=detail))
    return one


def judged(one: Any, scenario: Scenario = SCENARIO) -> tuple[str, int, list[tuple[str, str]]]:
    """The verdict, the exit status, and what is said of findings."""
    record = judge(scenario, one.end())
    return (
        record.verdict,
        status(record),
        [(note.kind, note.reason) for note in record.annotations if ":" in note.reason],
    )


def status(record: ScenarioRecord) -> int:
    return exit_status(RunRecord(verdict=record.verdict, scenarios=[record]))


def test_a_failure_that_is_known_is_a_failure_that_excuses(story: Make, write: Write) -> None:
    """The verdict is honest, the note names the finding and where to read, each failed oracle says who explains it: status 0."""
    assert judged(orphan(story())) == ("fail", 1, [])
    write("old-engine", ORPHAN)
    said = "old-engine: An engine outlives its worker (seen 9 of 9 on ==1.0); see docs/findings.md#old-engine"
    assert judged(orphan(story())) == ("fail", 0, [("known_finding", said)])
    record = judge(SCENARIO, orphan(story()).end())
    assert {oracle.name: oracle.known for oracle in record.oracles if oracle.known} == {"no_leaks()": ["old-engine"]}


@pytest.mark.parametrize(
    "edits",
    [
        ('"sim"', '"other"'),
        ('"a/*"', '"a"'),
        ('"a/*"', '"b/*"'),
        ("==1.0", "==0.9"),
        ("engine [0-9]+$", "engine [a-z]+$"),
        ('"no_leaks"', '"succeeds"'),
        ('stack = "sim"', 'stack = "sim"\nengine = "vllm"'),
    ],
    ids=lambda edits: " ".join(edits[1].split()),
)
def test_what_is_known_elsewhere_excuses_nothing(story: Make, write: Write, edits: tuple[str, str]) -> None:
    """Another stack, scenario, version, reason, oracle or engine."""
    write("old-engine", ORPHAN, *edits)
    verdict, code, said = judged(orphan(story()))
    assert (verdict, code) == ("fail", 1)
    assert "known_finding" not in dict(said)


def test_a_planted_bug_is_never_excused(story: Make, write: Write) -> None:
    """What the stack was told to do is no shortcoming of a release."""
    write("old-engine", ORPHAN)
    one = orphan(story())
    one.events[0][1].params["bug"] = "orphan-engine"
    verdict, code, said = judged(one)
    assert (verdict, code, [kind for kind, _ in said]) == ("fail", 1, [])


def test_a_new_failure_beside_a_known_one_counts(story: Make, write: Write) -> None:
    """Both are named, and the status is 1: of another oracle, and of the same one where it lists what it found."""
    write("old-engine", ORPHAN)
    one = orphan(story(), "engine 40133", "engine 40134", "port 8000")
    verdict, code, ((kind, reason),) = judged(one)
    assert (verdict, code, kind) == ("fail", 1, "known_in_part")
    assert reason == (
        "old-engine: An engine outlives its worker (seen 9 of 9 on ==1.0) explains no_leaks(); see docs/findings.md#old-engine; "
        "also a new failure: no_leaks(): process of worker-1: port 8000"
    )
    one = story()
    one.migrates([1, 2, 3])
    one.add(180, Leak(source="worker-1", what="process", detail="engine 40133"))
    verdict, code, ((kind, reason),) = judged(one)
    assert (verdict, code, kind) == ("fail", 1, "known_in_part")
    assert "explains no_leaks(); see docs/findings.md#old-engine; also a new failure: tokens_exact(): " in reason


BOUND = f"""
{ORPHAN}
[[shows]]
oracle = "no_leaks"
reason = "^shm of .*: psm"
of = "shown"
[[shows]]
oracle = "no_leaks"
reason = "^shm of .*: loads"
of = "any"
"""
ENGINE, SHM, LOADS = ("process", "engine 40133"), ("shm", "psm_1"), ("shm", "loads_1")


@pytest.mark.parametrize(
    "leaks,excused",
    [
        ([("worker-1", *ENGINE)], True),
        ([("worker-2", *ENGINE)], False),
        ([("worker-1", *ENGINE), ("worker-2", *ENGINE)], False),
        ([("worker-1", *ENGINE), ("worker-1", *SHM)], True),
        ([("worker-1", *ENGINE), ("worker-2", *SHM)], False),
        ([("worker-1", *SHM)], False),
        ([("worker-1", *ENGINE), ("harness", *SHM)], True),
        ([("harness", *SHM)], False),
        ([("worker-2", *LOADS)], True),
    ],
    ids=str,
)
def test_a_leak_is_known_of_a_process_that_was_hit(
    story: Make, write: Write, leaks: list[tuple[str, str, str]], excused: bool
) -> None:
    """Worker-1 was: of another it is new; so is what is known only beside another leak, without that; unless of whichever.

    Of a file in /dev/shm older runs do not say whose it was ("harness").
    """
    write("old-engine", BOUND.replace("of worker-1:", "of worker-[0-9]+:"))
    one = story()
    one.migrates()
    for source, what, detail in leaks:
        one.add(180, Leak(source=source, what=what, detail=detail))
    assert judged(one)[:2] == ("fail", 0 if excused else 1)


@pytest.mark.parametrize("leak,kinds", [(ENGINE, []), (LOADS, ["known_in_part"])], ids=str)
def test_where_no_fault_landed_nothing_is_known_but_what_needs_none(
    story: Make, write: Write, leak: tuple[str, str], kinds: list[str]
) -> None:
    """A run that was interrupted before; one in which a worker was only looked at, or started again, is no other."""
    write("old-engine", BOUND)
    one = story()
    asked = FaultRequested(source="harness", id="fault-1", fault="check_health", target="worker-1")
    one.add(110, asked)
    one.add(111, FaultLanded(source="worker-1", id="fault-1", evidence={"status": 200}))
    one.add(180, Leak(source="worker-1", what=leak[0], detail=leak[1]))
    record = judge(SCENARIO, one.end("interrupted", "Ctrl-C"))
    assert [note.kind for note in record.annotations] == kinds


HANGS = """
title = "A request that hangs"
what = "It gets nothing."
stack = "sim"
versions = "==1.0"
scenarios = ["a/b"]
seen = "9 of 9"
since = 2026-01-31
[[shows]]
oracle = "every_request_ends"
reason = "^request [0-9]+ .*: hang"
"""


@pytest.mark.parametrize("phase", ["control", "repeat"])
def test_a_request_that_hangs_without_the_fault_is_not_excused_by_one_that_hangs_in_it(
    story: Make, write: Write, phase: str
) -> None:
    """Every hang is named with its phase, and each has to be explained."""
    write("stuck", HANGS)
    alone = msgspec.structs.replace(SCENARIO, expect=[])

    def hanging(phase: str = "") -> Any:
        one = story()
        one.killed()
        one.request(100, "r", [1, 2], outcome="hang", error="no byte for 4 s; none at all")
        one.request(101, "s", [1, 2, 3], outcome="hang", index=1)
        if phase:
            one.request(50, "x", [1], outcome="hang", control=True, check="" if phase == "control" else phase)
        return one

    (said,) = [o for o in judge(alone, hanging().end()).oracles if o.name == "every_request_ends()"]
    both = (
        "request 0 (r): hang (HTTP 200) after 2 tokens: no byte for 4 s; none at all; "
        "request 1 (s): hang (HTTP 200) after 3 tokens"
    )
    assert said.reason == both
    assert judged(hanging(), alone)[:2] == ("fail", 0)
    (said,) = [o for o in judge(alone, hanging(phase).end()).oracles if o.name == "every_request_ends()"]
    assert said.reason == f"{phase} 0 (x): hang (HTTP 200) after 1 tokens; {both}"
    verdict, code, ((kind, reason),) = judged(hanging(phase), alone)
    assert (verdict, code, kind) == ("fail", 1, "known_in_part")
    assert f"also a new failure: every_request_ends(): {phase} 0 (x): hang" in reason


def test_two_findings_excuse_what_they_explain_together(story: Make, write: Write) -> None:
    """A note for each."""
    write("old-engine", ORPHAN)
    write("short-answer", SHORT)
    one = story()
    one.migrates([1, 2, 3], outcome="error", error="stream broke off")
    one.add(180, Leak(source="worker-1", what="process", detail="engine 40133"))
    verdict, code, said = judged(one)
    assert (verdict, code) == ("fail", 0)
    assert [(kind, reason.partition(":")[0]) for kind, reason in said] == [
        ("known_finding", "old-engine"),
        ("known_finding", "short-answer"),
    ]


def test_what_was_not_tested_beside_a_known_failure_is_unknown(story: Make, write: Write) -> None:
    """A leak is known without a fault, and none landed: the status says that the rest was not tested, as for any such run."""
    write("old-engine", f'{ORPHAN}of = "any"\n[[shows]]\noracle = "tokens_exact"\nreason = "not tested"\nof = "any"')
    one = story()
    one.request(100, "r", [1, 2, 3])
    one.add(180, Leak(source="worker-1", what="process", detail="engine 40133"))
    verdict, code, ((kind, reason),) = judged(one)
    assert (verdict, code, kind) == ("fail", 3, "known_in_part")
    assert [oracle.name for oracle in judge(SCENARIO, one.end()).oracles if oracle.known] == ["no_leaks()"]
    assert (
        "explains no_leaks(); see docs/findings.md#old-engine; the rest was not tested: 1 of 1 faults never fired"
        in reason
    )


def test_an_oracle_that_cannot_tell_may_be_part_of_a_finding(story: Make, write: Write) -> None:
    """Where the finding shows in a failure, too: where no answer came, no recovery can be measured."""
    both, alone = (
        msgspec.structs.replace(SCENARIO, expect=e)
        for e in ([succeeds(), recovers_within(ms=5)], [recovers_within(ms=5)])
    )

    def broken() -> Any:
        one = story(stream=False)
        one.taken(101, "worker-1")
        one.killed()
        one.request(100, "r", [], outcome="error", error="stream broke off")
        return one

    write("short-answer", SHORT, "no two tokens", "nothing of that kind")
    verdict, code, ((kind, reason),) = judged(broken(), both)
    assert (verdict, code, kind) == ("fail", 3, "known_in_part")
    assert "; the rest was not tested: recovers_within(ms=5" in reason
    unable = next(o for o in judge(both, broken().end()).oracles if o.name.startswith("recovers_within"))
    assert unable.verdict == "unknown"
    write("short-answer", SHORT, "no two tokens", unable.reason)
    assert judged(broken(), both)[:2] == ("fail", 0)
    assert judged(broken(), alone)[:2] == ("unknown", 3)  # it shows in no failure
    write("old-engine", ORPHAN)
    one = broken()
    one.add(180, Leak(source="worker-1", what="process", detail="engine 40133"))
    assert judged(one, alone)[:2] == ("fail", 3)  # and what shows is another one


def test_drift_beside_a_known_failure_decides_nothing(story: Make, write: Write) -> None:
    """As it does beside a pass."""
    write("old-engine", ORPHAN)
    one = orphan(story())
    one.add(2, ContractChosen(source="frontend", backend="sim", version="99", known=False, events=["moon_rises"]))
    expect = [succeeds(), logged("moon_rises", role="frontend")]
    record = judge(msgspec.structs.replace(SCENARIO, expect=expect), one.end())
    assert (record.verdict, status(record), len(record.drift)) == ("fail", 0, 2)


def test_a_run_that_goes_on_is_not_told_of_findings(story: Make, write: Write) -> None:
    """What a test expects meanwhile is its own."""
    write("short-answer", SHORT)
    one = story()
    one.migrates([1, 2, 3])
    record = judge(SCENARIO, one.end(), ongoing=True)
    assert (record.verdict, record.annotations) == ("fail", [])


def good(one: Any) -> Any:
    one.migrates()
    return one


def test_a_finding_that_does_not_show_is_said(story: Make, write: Write) -> None:
    """On a version that had it always, sometimes, or that is later; the verdict is that of the run."""
    write("old-engine", ORPHAN)
    told = "old-engine: An engine outlives its worker"
    page = "see docs/findings.md#old-engine"
    always = f"{told} did not show in 1.0, where it was seen 9 of 9: if this mends it, its versions end before; {page}"
    assert judged(good(story())) == ("pass", 0, [("finding_not_seen", always)])
    write("old-engine", ORPHAN, "9 of 9", "6 of 9")
    sometimes = f"{told} was not seen this time, in 1.0 (6 of 9); {page}"
    assert judged(good(story())) == ("pass", 0, [("finding_not_seen", sometimes)])
    write("old-engine", ORPHAN, "==1.0", ">=0.8,<=0.9")
    mended = f"{told} is not there any more in 1.0; {page}"
    assert judged(good(story())) == ("pass", 0, [("finding_mended", mended)])
    write("old-engine", ORPHAN, "==1.0", "==0.9.*", "9 of 9", "6 of 9")
    later = f"{told} was not seen in 1.0, which is later than those of ==0.9.*; it did not show in every run of theirs (6 of 9)"
    assert judged(good(story())) == ("pass", 0, [("finding_not_seen", f"{later}, so repeat this one; {page}")])
    write("old-engine", ORPHAN, "==1.0", ">=1.1,<=1.2")
    assert judged(good(story())) == ("pass", 0, [])  # an earlier version was never said to have it


def test_only_a_run_that_tested_it_can_say_that_it_does_not_show(story: Make, write: Write) -> None:
    """Neither one whose fault did not land, nor one without the oracle, nor another failure of that oracle."""
    write("old-engine", ORPHAN)
    one = story()
    one.request(100, "r", [1, 2, 3])
    assert judged(one) == ("unknown", 3, [])
    assert judged(orphan(story(), "port 8000")) == ("fail", 1, [])
    write("old-engine", ORPHAN, '"no_leaks"', '"one_active"')
    assert judged(good(story())) == ("pass", 0, [])


def test_a_run_in_which_something_else_failed_does_not_say_that_a_finding_is_gone(story: Make, write: Write) -> None:
    """What failed may be why it could not show."""
    write("old-engine", ORPHAN)
    one = story()
    one.migrates([1, 2, 3])
    assert judged(one) == ("fail", 1, [])
    write("short-answer", SHORT)  # but a failure that is known is no such thing
    assert [kind for kind, _ in judged(one)[2]] == ["known_finding", "finding_not_seen"]


def test_the_same_on_a_newer_version_is_not_presumed_but_said(story: Make, write: Write) -> None:
    """Status 1, with the finding that looks the same: its range may have to be wider."""
    write("old-engine", ORPHAN, "==1.0", "==0.9")
    said = "old-engine: An engine outlives its worker was seen on ==0.9 only, and no_leaks() of 1.0 looks the same"
    assert judged(orphan(story())) == ("fail", 1, [("like_a_finding", f"{said}; see docs/findings.md#old-engine")])


WRONG = [
    ('stack = "sim"', 'stacks = "sim"', 4, "unknown key 'stacks'"),
    ("==1.0", ">=1.0", 5, "versions = '>=1.0' has no end: a newer version is never presumed to have it"),
    ("==1.0", "all", 5, "Invalid specifier: 'all'; versions are given as in requirements"),
    ("9 of 9", "often", 7, "seen = 'often': is how often of how many tries, such as '6 of 9'"),
    ("9 of 9", "9 of 6", 7, "seen = '9 of 6'"),
    ("2026-01-31", '"last year"', 8, "Invalid RFC3339 encoded date"),
    ("engine [0-9]+$", "engine [0-9+$", 11, "bad regular expression"),
    ("process of worker-1: engine [0-9]+$", ".*", 11, "the reason '.*' explains everything"),
    ("process of worker-1: engine [0-9]+$", "t", 11, "the reason 't' explains too much"),
    ("process of worker-1: engine [0-9]+$", "a.*e", 11, "the reason 'a.*e' explains too much"),
    ("process of worker-1: engine [0-9]+$", "[a-z ]{9}", 11, "the reason '[a-z ]{9}' explains too much"),
    ('["a/*"]', "[]", 6, "scenarios is empty"),
    ('engine [0-9]+$"', 'engine [0-9]+$"\nof = "hits"', 12, "'hits'"),
    ("since = ", 'reproduction = "rm"\nsince = ', 8, "reproduction = 'rm': is a command of ftharness"),
]


@pytest.mark.parametrize("old,new,line,says", WRONG, ids=[one[3] for one in WRONG])
def test_a_file_that_is_wrong_is_told_its_line(write: Write, old: str, new: str, line: int, says: str) -> None:
    """With what would be right."""
    path = write("old-engine", ORPHAN, old, new)
    with pytest.raises(TomlError) as caught:
        known_findings()
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert says in str(caught.value)


def test_a_file_that_is_wrong_is_told_before_anything_starts(write: Write) -> None:
    """Not when the run is over, and can only be judged again."""
    write("old-engine", ORPHAN, "9 of 9", "often")
    with pytest.raises(TomlError, match=r"old-engine.toml:7: seen = 'often'"):
        cell_of("migration/drain", "sim")


def test_a_files_name_is_the_findings(write: Write) -> None:
    """It is a heading's, a folder's, and a word of a command line."""
    with pytest.raises(TomlError, match="small letters, figures and hyphens, not 'Old engine'"):
        read_finding(write("Old engine", ORPHAN))


def test_names_that_mean_nothing_are_strangers(write: Write) -> None:
    """Each with the nearest."""
    text = (
        ORPHAN.replace("a/*", "migraton/drain")
        .replace("no_leaks", "no_leak")
        .replace('stack = "sim"', 'stack = "simm"')
    )
    said = strangers(read_finding(write("old-engine", text)))
    assert [one.partition("; did you mean")[0] for one in said] == [
        "no oracle 'no_leak'",
        "no scenario 'migraton/drain'",
        "no stack 'simm'",
    ]
    known = ORPHAN.replace("a/*", "migration/*").replace('stack = "sim"', 'stack = "sim"\nengine = "vlm"')
    assert strangers(read_finding(write("old-engine", known))) == ["no engine 'vlm'; did you mean vllm?"]


ROOT = Path(__file__).parents[3]


def test_the_findings_that_ship_name_what_there_is() -> None:
    """And where one is reproduced from a stored scenario, that is one of its own, on a stack of its own."""
    for finding in known_findings():
        assert strangers(finding) == []
        if not finding.command:
            cell = msgspec.json.decode(
                (ROOT / "docs" / "findings" / finding.id / "scenario.json").read_bytes(), type=Cell
            )
            assert finding.of(cell.stack, cell.engine, cell.scenario.name), finding.id


def test_the_page_of_the_findings_is_what_they_say() -> None:
    """Made by tools/make_findings.py, which has to be run when a finding changes."""
    text = (ROOT / "docs" / "findings.md").read_text()
    assert _page(text, known_findings()) == text


def test_the_page_has_a_row_and_a_heading_for_each(write: Write) -> None:
    """With what was seen, how it shows, and the command; what is around the marks stays."""
    write("old-engine", ORPHAN)
    write("short-answer", SHORT, "since = ", 'reproduction = "ftharness run a/b --stack sim"\nsince = ')
    text = _page((ROOT / "docs" / "findings.md").read_text(), known_findings())
    for line in (
        "| [An engine outlives its worker](#old-engine) | `sim` | `==1.0` | 9 of 9 | `a/*` | 2026-01-31 |",
        "## old-engine",
        "**An answer that breaks off.** On `other`, `sim` `>=0.9,<=1.1`, seen 6 of 9, first on 2026-01-31.",
        "- `no_leaks()` says `process of worker-1: engine [0-9]+$`",
        "ftharness replay docs/findings/old-engine",
        "ftharness run a/b --stack sim",
        "## One more",
    ):
        assert f"\n{line}\n" in text
    assert text == _page(text, known_findings())


def test_the_finding_that_the_page_shows_can_be_read(write: Write) -> None:
    """As it stands."""
    (text,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "findings.md").read_text(), re.DOTALL)
    finding = read_finding(write("old-engine", text))
    assert finding.always
    assert finding.reproduction == "ftharness replay docs/findings/old-engine"


def _page(text: str, known: Any) -> str:
    made: str = runpy.run_path(str(ROOT / "tools" / "make_findings.py"))["page"](text, known)
    return made
