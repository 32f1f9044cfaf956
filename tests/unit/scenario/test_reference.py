"""Answers of an engine whose tokens cannot be computed, against the run without the fault; and when that is no reference."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from ftharness.engine import tokens
from ftharness.history import Event, Log, Metric, RequestChunk, RequestTokens, RunPhase
from ftharness.scenario import (
    Expect,
    ends_as_asked,
    ends_cleanly,
    every_request_ends,
    logged,
    migrated,
    tokens_exact,
    usage_correct,
)
from ftharness.scenario.case import Case, Finding
from ftharness.scenario.expect import apply
from ftharness.scenario.interruptions import interruptions
from ftharness.scenario.oracles.tokens import count_tokens
from ftharness.scenario.recovery import recovery_of

Make = Callable[..., Any]
#: After so many tokens worker-2 goes on in the story's migration.
CUT = 5


class Run:
    """A migration of a greedy engine: control, repeat, fault and cut; a test bends one of them, and takes None for left out."""

    def __init__(self, story: Make, right: Sequence[int]) -> None:
        self._story = story
        self.more: list[tuple[float, Event]] = []
        self.metrics: dict[str, str] = {}
        self.reference = list(right)
        self.repeat: list[int] | None = list(right)
        self.answer = list(right)
        self.cuts: list[tuple[list[int], str]] = [(list(right[CUT:]), "success")]
        self.ids = True
        self.cut_text = 0
        self.pieces: dict[str, list[str]] = {}
        self.body: dict[str, Any] = {"temperature": 0}
        self.end: dict[str, Any] = {}
        self.repeat_end: dict[str, Any] = {}
        self.reference_end: dict[str, Any] = {}
        self.cut_end: dict[str, Any] = {}

    def events(self) -> list[Event]:
        """The history."""
        one = self._story(exact=False, greedy=True)
        one.events[0][1].params["metrics"] |= self.metrics
        one.events += self.more
        one.events = [(t, event) for t, event in one.events if getattr(event, "request", "") != "c"]
        more = {name: {"pieces": pieces} for name, pieces in self.pieces.items()}
        one.request(
            10,
            "c",
            self.reference,
            control=True,
            step_ms=0.1,
            body=self.body,
            **self.reference_end,
            **more.get("c", {}),
        )
        if self.repeat is not None:
            one.add(60, RunPhase(source="harness", phase="repeat"))
            again = {"control": True, "check": "repeat", "step_ms": 0.1, "body": self.body}
            one.request(60, "d", self.repeat, **again, **self.repeat_end, **more.get("d", {}))
        one.migrates(self.answer, body=self.body, **self.end, **more.get("r", {}))
        if self.cuts:
            one.add(2000, RunPhase(source="harness", phase="cut"))
        for place, (ids, outcome) in enumerate(self.cuts):
            again = {"control": True, "check": "cut", "cut": CUT, "cut_text": self.cut_text, "step_ms": 0.1}
            name = f"k{place}"
            one.request(2001 + 200 * place, name, ids, outcome=outcome, **again, **self.cut_end, **more.get(name, {}))
        if self.ids:
            said = {"c": self.reference, "d": self.repeat or [], "r": self.answer}
            said |= {f"k{place}": ids for place, (ids, _) in enumerate(self.cuts)}
            for name, ids in said.items():
                one.add(3000, RequestTokens(source="harness", request=name, ids=ids))
        events: list[Event] = one.end()
        return events

    def case(self) -> Case:
        """The same, as an oracle sees it."""
        return Case(self.events())

    def says(self, expect: Expect | None = None) -> Finding:
        """What ``tokens_exact`` says, or that oracle."""
        return apply(expect or tokens_exact(), self.case())


@pytest.fixture
def run(story: Make, ids: list[int]) -> Run:
    """One in which all is well."""
    return Run(story, ids)


def test_what_equals_the_reference_is_exact(run: Run) -> None:
    """And it is said how varied the reference is, without which that would mean little."""
    finding = run.says()
    assert (finding.verdict, finding.reason) == (
        "pass",
        "10 tokens, each as without the fault (10 distinct tokens in 10)",
    )
    count = count_tokens(run.case())
    assert (count.expected, count.received, count.lost, count.duplicated, count.altered) == (10, 10, 0, 0, 0)
    assert run.says(migrated()).verdict == "pass"
    assert run.says(ends_cleanly()).verdict == run.says(ends_as_asked()).verdict == "pass"


def _other_repeat(run: Run) -> None:
    run.repeat = [*run.reference[:6], 7, *run.reference[7:]]


def _no_repeat(run: Run) -> None:
    run.repeat = None


def _repeat_failed(run: Run) -> None:
    run.repeat_end = {"outcome": "error", "status": 500, "error": "no memory"}


def _other_end(run: Run) -> None:
    run.repeat_end = {"finish_reason": "stop"}


def _other_cut(run: Run) -> None:
    run.cuts = [([run.reference[CUT], 7, *run.reference[CUT + 2 :]], "success")]


def _short_cut(run: Run) -> None:
    run.cuts = [(run.reference[CUT:-1], "success")]


def _no_answer(run: Run) -> None:
    run.cuts = [([], "error"), ([], "hang")]


def _no_cut(run: Run) -> None:
    run.cuts = []


def _no_ids(run: Run) -> None:
    run.cuts, run.ids, run.body = [], False, {"temperature": 0, "messages": []}
    run.more = [(1999, RunPhase(source="harness", phase="cut"))]


def _one_word(run: Run) -> None:
    run.reference = [9] * 12
    run.repeat, run.answer, run.cuts = run.reference, run.reference, [(run.reference[CUT:], "success")]


CONTROLS = [
    (
        _other_repeat,
        "the engine does not repeat itself: choice 0: of 10 tokens 0 lost, 0 duplicated, 1 altered; the first at",
    ),
    (_no_repeat, "the engine was not asked whether it repeats itself"),
    (_repeat_failed, "the engine was asked to repeat itself, and did not answer: error (HTTP 500)"),
    (_other_end, "the engine does not repeat itself: finish_reason stop, and length without the fault"),
    (_other_cut, "a prompt cut at token 5 is not continued as the reference: first difference at token 7"),
    (_short_cut, "a prompt cut at token 5 is not continued as the reference: first difference at token 10"),
    (_no_answer, "a prompt cut at token 5 was not answered (tried 2 times), so nothing can be said: hang"),
    (
        _no_cut,
        "whether a prompt cut at token 5 is continued as the reference was not tried: the run did not come so far",
    ),
    (
        _no_ids,
        "was not tried: which tokens its text is made of cannot be told, and its prompt is no text that could be gone on with",
    ),
    (_one_word, "the reference has only 1 distinct tokens in 12: a lost one might not show, at least 2 are needed"),
]


@pytest.mark.parametrize("equal", [True, False], ids=["equal", "another"])
@pytest.mark.parametrize("bend,why", CONTROLS, ids=[bend.__name__ for bend, _ in CONTROLS])
def test_a_control_that_does_not_hold_proves_nothing(
    run: Run, bend: Callable[[Run], None], why: str, equal: bool
) -> None:
    """Neither that the answer is right nor that it is wrong; the oracle says which control it was, and so do the others."""
    bend(run)
    if not equal:
        run.answer = [*run.answer[:8], 4, *run.answer[9:]]
    for expect in (tokens_exact(), ends_as_asked(), ends_cleanly()):
        finding = run.says(expect)
        assert finding.verdict == "unknown", finding
        assert why in finding.reason
    count = count_tokens(run.case())
    assert (count.lost, count.duplicated, count.altered) == (None, None, None)


def test_words_are_counted_where_tokens_cannot_be_told(run: Run) -> None:
    """It is said which of the two it was. Of what no worker went on with nothing has to be cut."""
    _one_word(run)
    run.cuts, run.ids, run.end = [], False, {"outcome": "cancelled"}
    run.answer = run.reference[:5]
    assert "only 1 distinct words in 12" in run.says().reason


SAID = ["The", " rain", " had", " stopped", " by", " noon", ",", " and", " they", " went"]


@pytest.fixture
def told(run: Run) -> Run:
    """One of a model whose tokens nobody can tell: its answer was cut in its text, after five of ten tokens."""
    run.ids, run.cut_text = False, len("".join(SAID[:CUT]))
    run.pieces = {"c": SAID, "d": SAID, "r": SAID, "k0": SAID[CUT:]}
    return run


def test_a_text_that_is_gone_on_with_shows_that_the_engine_goes_on(told: Run) -> None:
    """However its begin was read: it came to the same. And of what came another way it is then known that it is wrong."""
    assert (told.says().verdict, told.says().reason) == (
        "pass",
        "10 tokens, each as without the fault (9 distinct words in 9)",
    )
    told.pieces["r"] = [*SAID[:8], " we", " went"]
    assert (told.says().verdict, "1 altered; the first at token 8" in told.says().reason) == ("fail", True)


@pytest.mark.parametrize(
    "rest,end,why",
    [
        ([*SAID[CUT:8], " we", " went"], {}, "first difference at character 35"),
        ([*SAID[CUT:9], " wending"], {}, "first difference at character 43"),
        (SAID[CUT:9], {}, "first difference at character 39"),
        ([*SAID[CUT:], " on"], {}, "first difference at character 44"),
        (SAID[CUT:], {"finish_reason": "stop"}, "it ended with stop, not length"),
    ],
    ids=["altered", "longer word", "short", "too long", "another end"],
)
def test_a_text_that_is_not_gone_on_with_shows_nothing(
    told: Run, rest: list[str], end: dict[str, Any], why: str
) -> None:
    """Neither of the engine, which may have read other tokens than were made, nor of the stack; and that is said."""
    told.pieces["k0"], told.cut_end = rest, end
    finding = told.says()
    assert finding.verdict == "unknown"
    assert f"cut at token 5 (as text, of 23 characters) is not continued as the reference: {why}" in finding.reason
    assert "a text that is cut may be read as other tokens than were made" in finding.reason


def test_where_tokens_came_as_one_the_engine_may_go_on_beyond_the_reference(told: Run) -> None:
    """Nobody knows how many are left then, and more than that were asked for; but not beyond an end of its own."""
    told.reference_end = told.repeat_end = told.end = {"usage": {"completion_tokens": 12}}
    told.pieces["k0"], told.cut_end = [*SAID[CUT:], " on", "."], {"finish_reason": "stop"}
    assert told.says().verdict == "pass", told.says()
    told.pieces["k0"] = [*SAID[CUT:9], " wend"]
    assert "first difference at character 43" in told.says().reason
    told.pieces["k0"] = SAID[CUT:]
    assert "it ended with stop, not length" in told.says().reason
    for one in (told.reference_end, told.repeat_end, told.end):
        one["finish_reason"] = "stop"
    assert told.says().verdict == "pass"
    told.pieces["k0"] = [*SAID[CUT:], " on"]
    assert "first difference at character 44" in told.says().reason


PROSE = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it was"
    " the epoch of belief, it was the epoch of incredulity, it was the season of Light, it was the season of Darkness, it"
    " was the spring of hope, it was the winter of despair, we had everything before us, we had nothing before us, we were"
    " all going direct to Heaven, we were all going direct the other way"
)
SCRIPT = "天地玄黃宇宙洪荒日月盈昃辰宿列張寒來暑往秋收冬藏閏餘成歲律呂調陽雲騰致雨露結為霜金生麗水玉出崑岡"


@pytest.mark.parametrize(
    "text,made,why",
    [
        (PROSE, 100, ""),
        (" and so on and on" * 60, 300, "only 3 distinct words in 300"),
        (SCRIPT, 60, ""),
        (SCRIPT[:6] * 50, 300, "only 6 distinct words in 300"),
        ("baba" * 100, 300, "only 1 distinct words in 1: a lost one might not show, at least 50 are needed"),
    ],
    ids=["prose that repeats itself", "a loop", "no spaces", "a loop without", "one word"],
)
def test_how_varied_a_text_is_shows_in_its_words(told: Run, text: str, made: int, why: str) -> None:
    """Of a script without spaces in its signs. Few words for many tokens are not varied because they are few."""
    told.pieces = {"c": [text], "d": [text], "r": [text[:3]]}
    told.reference_end = told.repeat_end = {"usage": {"completion_tokens": made}}
    told.cuts, told.end = [], {"outcome": "error", "status": 200, "error_code": 500}
    assert (told.says(ends_cleanly()).verdict, why in told.says(ends_cleanly()).reason) == (
        "unknown" if why else "pass",
        True,
    )


def test_a_cut_that_was_answered_in_the_end_is_answered(run: Run) -> None:
    """A stack that lost a worker may fail the first try; but one that went on otherwise once is no reference."""
    run.cuts = [([], "error"), (run.reference[CUT:], "success")]
    assert run.says().verdict == "pass"
    run.cuts = [([4, *run.reference[CUT + 1 :]], "success"), (run.reference[CUT:], "success")]
    assert "first difference at token 6" in run.says().reason


def test_a_reference_that_falls_into_a_loop_is_none(run: Run) -> None:
    """Of a long answer each 300 tokens have to be varied: a fault may fall on any."""
    varied = tokens.generate(0, tokens.encode("Once"), 300)
    run.reference = run.repeat = run.answer = [*varied, *[1, 2] * 150]
    run.cuts = [(run.reference[CUT:], "success")]
    assert "only 2 distinct tokens in 300: a lost one might not show, at least 50 are needed" in run.says().reason
    run.reference = run.repeat = run.answer = [*varied, *varied]
    run.cuts = [(run.reference[CUT:], "success")]
    assert run.says().verdict == "pass"


@pytest.mark.parametrize(
    "change,counts,first",
    [
        (lambda w: w[:6] + w[7:], (1, 0, 0), 7),
        (lambda w: w[:6] + w[5:], (0, 1, 0), 7),
        (lambda w: [*w[:5], 4, *w[6:]], (0, 0, 1), 6),
        (lambda w: w[:-1], (1, 0, 0), 10),
        (lambda w: [*w, 4], (0, 1, 0), 11),
    ],
    ids=["lost", "duplicated", "altered", "cut short", "too long"],
)
def test_each_difference_from_the_reference_fails(
    run: Run, change: Callable[[list[int]], list[int]], counts: tuple[int, int, int], first: int
) -> None:
    """It is counted, in the reason and in the record, and the first wrong token is named."""
    run.answer = change(run.reference)
    finding = run.says()
    lost, duplicated, altered = counts
    assert finding.verdict == "fail"
    assert f"{lost} lost, {duplicated} duplicated, {altered} altered; the first at token {first}" in finding.reason
    count = count_tokens(run.case())
    assert (count.lost, count.duplicated, count.altered) == counts


def test_what_the_server_says_of_the_answer_has_to_be_the_same(run: Run) -> None:
    """Its end and its usage; and a text is compared to the last character, whatever it is made of."""
    run.end = {"finish_reason": "stop"}
    assert (run.says().verdict, "finish_reason stop" in run.says().reason) == ("fail", True)
    run.end = {"usage": {"completion_tokens": 11}}
    assert (run.says().verdict, "usage.completion_tokens 11" in run.says().reason) == ("fail", True)
    pieces = [tokens.VOCABULARY[token] for token in run.answer]
    run.end = {"pieces": [*pieces[:-1], pieces[-1] + " "]}
    assert run.says().verdict == "fail"


@pytest.mark.parametrize("bend", [bend for bend, _ in CONTROLS if bend not in (_one_word, _other_end)])
def test_an_answer_that_ends_short_fails_whatever_the_controls_say(run: Run, bend: Callable[[Run], None]) -> None:
    """If it was called a success: tokens are missing, whichever they would have been. One that failed shows nothing then."""
    bend(run)
    run.answer = run.reference[:7]
    assert (run.says().verdict, "7 tokens, and 10 without the fault" in run.says().reason) == ("fail", True)
    run.end = {"outcome": "error", "status": 200, "error_code": 500}
    assert run.says().verdict == "unknown"


def test_an_answer_as_short_as_the_repeat_is_not_short(run: Run) -> None:
    """An engine that ends sooner or later by itself has lost nothing."""
    run.repeat = run.answer = run.reference[:8]
    assert (run.says().verdict, "does not repeat itself" in run.says().reason) == ("unknown", True)


def test_what_nobody_went_on_with_needs_no_cut(run: Run) -> None:
    """A request whose worker was lost and that failed: what came was made in one go, and is compared as it is."""
    run.cuts, run.answer = [], run.reference[:5]
    run.end = {"outcome": "error", "status": 200, "error_code": 500}
    assert run.says(ends_cleanly()).verdict == "pass"
    assert (run.says().verdict, "5 lost" in run.says().reason) == ("fail", True)
    run.answer = [*run.reference[:4], 4]
    assert (run.says(ends_cleanly()).verdict, "the first at token 5" in run.says(ends_cleanly()).reason) == (
        "fail",
        True,
    )
    _other_repeat(run)
    assert run.says(ends_cleanly()).verdict == "unknown"


def test_what_a_client_got_that_left_is_the_begin_of_the_reference(run: Run) -> None:
    """No more is expected of it, and no less."""
    run.cuts, run.answer, run.end = [], run.reference[:5], {"outcome": "cancelled"}
    count = count_tokens(run.case())
    assert (count.expected, count.lost, count.altered) == (5, 0, 0)
    run.answer = [*run.reference[:3], 4, run.reference[4]]
    assert count_tokens(run.case()).altered == 1
    run.ids = False
    pieces = [tokens.VOCABULARY[token] for token in run.reference[:5]]
    run.end = {"outcome": "cancelled", "pieces": [*pieces[:-1], pieces[-1][:-1]]}
    assert count_tokens(run.case()).altered == 0, "it ends within a word"


def test_chance_has_no_reference(run: Run) -> None:
    """A request that samples is counted as on any stack, and that is said; top_k = 1 leaves nothing to chance."""
    run.body = {"temperature": 0.7}
    run.answer = [4, *run.reference[1:]]
    finding = run.says()
    assert finding.verdict == "pass"
    assert "as many as without the fault: request 0 (r) asks for chance, so there is no reference" in finding.reason
    assert count_tokens(run.case()).altered is None
    run.body = {"temperature": 0.7, "top_k": 1}
    assert run.says().verdict == "fail"


def test_without_a_fault_the_request_is_the_repeat(story: Make, ids: list[int]) -> None:
    """What differs then is the engine's own doing; what is equal shows that it repeats itself."""
    for answer, verdict in ((ids, "pass"), ([*ids[:8], 4, 4], "unknown")):
        one = story(exact=False, greedy=True)
        one.request(100, "r", answer)
        finding = apply(tokens_exact(), Case(one.end()))
        assert finding.verdict == verdict, finding


def test_without_a_control_there_is_no_reference(story: Make, ids: list[int]) -> None:
    """As in a test that drives the stack itself; an oracle that asks more than exact tokens is not held up by that."""
    one = story(exact=False, greedy=True)
    one.events = [(t, event) for t, event in one.events if getattr(event, "request", "") != "c"]
    one.request(100, "r", ids)
    case = Case(one.end())
    assert apply(tokens_exact(), case).reason == "request 0 (r): no complete run without the fault to compare with"
    assert apply(ends_cleanly(), case).verdict == "pass"


def test_the_checks_are_nobodys_of_the_fault_phase(run: Run) -> None:
    """Their lines, metrics and hangs are told from the workload's; what a repeat does is what the stack does without a fault."""
    run.cuts = [([], "hang")]
    run.metrics = {"migration": "moves"}
    run.more = [
        *((t, Metric(source="frontend", name="moves", value=value)) for t, value in ((99, 0), (1900, 1), (2500, 4))),
        (2002, Log(source="worker-1", event="request_received", captures={"request": "own-name"})),
        (2003, Log(source="frontend", event="migration_exhausted")),
    ]
    moved = run.says(migrated(times=1))
    assert (moved.verdict, moved.drift) == ("pass", ()), moved
    assert run.says(logged("migration_exhausted")).verdict != "pass"
    assert run.says(every_request_ends()).verdict == "pass"
    assert run.says(usage_correct()).verdict == "pass"
    case = run.case()
    assert [view.id for view in case.control] == ["c"]
    assert [view.id for view in case.requests] == ["r"]
    run.repeat_end = {"outcome": "hang"}
    assert run.says(every_request_ends()).verdict == "fail"


def test_a_backend_with_names_of_its_own_did_not_take_a_request_in_the_checks(story: Make, ids: list[int]) -> None:
    """Of one request in the phase all lines are about it; but not those that come when its answer is checked."""
    one = story(exact=False, greedy=True)
    one.taken(101, "worker-1", "own-1")
    one.killed()
    one.taken(128, "worker-2", "own-2")
    one.request(100, "r", ids)
    one.add(300, RunPhase(source="harness", phase="cut"))
    one.request(301, "k", ids[CUT:], control=True, check="cut", cut=CUT)
    one.taken(302, "worker-2", "own-3")
    case = Case(one.end())
    assert case.takers(case.requests[0]) == ["worker-1", "worker-2"]
    assert recovery_of(case, case.faults[0]).reroute_ms == 3
    one.events = [(t, event) for t, event in one.events if getattr(event, "captures", {}).get("request") != "own-2"]
    case = Case(one.end())
    assert recovery_of(case, case.faults[0]).reroute_ms is None


def test_where_an_answer_was_interrupted(story: Make, ids: list[int]) -> None:
    """By the next worker's claim; by the chunks' own word, where they name their worker; else by the longest wait."""
    one = story()
    one.migrates(ids)
    case = Case(one.end())
    assert interruptions(case, case.requests[0]) == [5]

    named = story()
    named.migrates(ids)
    named.events = [
        (t, msgspec.structs.replace(event, worker="worker-1" if event.first < 6 else "worker-2"))
        if isinstance(event, RequestChunk)
        else (t, event)
        for t, event in named.events
    ]
    case = Case(named.end())
    assert interruptions(case, case.requests[0]) == [6], "one that was on its way came after the claim"

    silent = story()
    silent.killed()
    silent.request(100, "r", ids, gap_before=7, gap_ms=50)
    case = Case(silent.end())
    assert interruptions(case, case.requests[0]) == [7], "nobody says who had it"


def test_what_was_not_gone_on_with_was_not_interrupted(story: Make, ids: list[int]) -> None:
    """A worker that dies with an answer; one that dies when all had come. An answer in one piece: in its middle."""
    lost = story()
    lost.taken(101, "worker-1")
    lost.killed()
    lost.request(100, "r", ids[:6], outcome="error", status=200, error_code=500)
    case = Case(lost.end())
    assert interruptions(case, case.requests[0]) == []

    for pieces in ([], [tokens.decode(ids)]):
        whole = story(stream=False)
        whole.events = [(t, event) for t, event in whole.events if getattr(event, "request", "") != "c"]
        whole.request(10, "c", ids, control=True, pieces=pieces)
        whole.migrates(ids, pieces=pieces)
        case = Case(whole.end())
        assert interruptions(case, case.requests[0]) == [5], "or as one, where the client does not know the vocabulary"
