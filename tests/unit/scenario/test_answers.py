"""Answers that are not plain: stop strings, seeds and prompts of the request's own, several choices."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ftharness.engine import tokens
from ftharness.scenario import tokens_exact, usage_correct
from ftharness.scenario.case import Case, Finding
from ftharness.scenario.expect import apply
from ftharness.scenario.oracles.tokens import count_tokens

Make = Callable[..., Any]


def run(
    story: Make,
    pieces: Sequence[str],
    body: dict[str, Any] | None = None,
    *,
    control: Sequence[str] | None = None,
    **more: Any,
) -> Case:
    """The answer in these pieces of text, and the same without the fault, if not given otherwise."""
    one = story()
    one.events = [(t, event) for t, event in one.events if getattr(event, "request", "") != "c"]
    one.request(10, "c", [], control=True, body=body, pieces=pieces if control is None else control, **more)
    one.killed()
    one.request(100, "r", [], body=body, pieces=pieces, **more)
    return Case(one.end())


def exact(case: Case) -> Finding:
    """What ``tokens_exact`` says."""
    return apply(tokens_exact(), case)


def words(ids: Sequence[int]) -> list[str]:
    """Each token's text."""
    return [tokens.VOCABULARY[token_id] for token_id in ids]


def test_an_answer_that_ends_within_a_word_is_exact(story: Make, ids: list[int]) -> None:
    """A stop string cuts where it begins, be it within a token; nothing of the one behind it is missing."""
    text = "".join(words(ids))
    stop = "".join(words(ids[6:9]))[2:-1]
    before = text[: text.index(stop)]
    case = run(story, [before[:9], before[9:]], {"stop": [stop]})
    assert exact(case).verdict == "pass", exact(case)
    count = count_tokens(case)
    assert (count.expected, count.lost, count.duplicated, count.altered) == (7, 0, 0, 0)


def test_a_stop_string_may_stand_alone(story: Make, ids: list[int]) -> None:
    """As OpenAI takes it: a text instead of a list of them."""
    text = "".join(words(ids))
    stop = words(ids)[5]
    case = run(story, [text[: text.index(stop)]], {"stop": stop}, finish_reason="stop")
    assert exact(case).verdict == "pass"
    assert apply(usage_correct(), case).verdict == "pass"
    beyond = run(story, [text], {"stop": stop}, finish_reason="stop")
    assert "is in the answer" in apply(usage_correct(), beyond).reason


def test_the_stop_string_that_is_complete_first_ends_the_answer(story: Make, ids: list[int]) -> None:
    """Also where another one begins before it, and would have been complete later."""
    text = "".join(words(ids))
    early, late = words(ids)[6], "".join(words(ids)[4:8])
    case = run(story, [text[: text.index(early)]], {"stop": [late, early]})
    assert exact(case).verdict == "pass", exact(case)


@pytest.mark.parametrize(
    "change,lost,duplicated,altered",
    [
        (lambda w: w[:2] + w[3:], 1, 0, 0),
        (lambda w: w[:3] + w[2:], 0, 1, 0),
        (lambda w: [*w[:2], " zozo", *w[3:]], 0, 0, 1),
        (lambda w: w[:-1], 1, 0, 0),
    ],
    ids=["lost", "duplicated", "altered", "cut short"],
)
def test_tokens_before_a_stop_string_are_counted_too(
    story: Make, ids: list[int], change: Callable[[list[str]], list[str]], lost: int, duplicated: int, altered: int
) -> None:
    """What became of them is told apart as of any others."""
    whole = words(ids)
    before = ["".join(whole[:8])]
    case = run(story, change(whole[:8]), {"stop": [whole[8]]}, control=before)
    assert exact(case).verdict == "fail"
    assert f"{lost} lost, {duplicated} duplicated, {altered} altered" in exact(case).reason


@pytest.mark.parametrize("stop", [[], ["never said"]], ids=["plain", "with a stop string"])
@pytest.mark.parametrize("text", ["Hello world, here", " baba Hello baba baba"])
def test_text_of_another_engine_is_no_token_of_ours(story: Make, text: str, stop: list[str]) -> None:
    """It fails, and is not counted."""
    case = run(story, [text], {"stop": stop} if stop else {})
    assert exact(case).verdict == "fail"
    assert "not made of the engine's tokens" in exact(case).reason
    assert count_tokens(case).expected == 0


def test_parts_of_words_are_not_held_against_the_usage(story: Make, ids: list[int]) -> None:
    """What is held back for a stop string comes in parts that the client cannot count, each time others."""
    text = "".join(words(ids[:6]))
    usage = {"prompt_tokens": 4, "completion_tokens": 8, "total_tokens": 12}
    body = {"stop": ["".join(words(ids[6:8]))]}
    case = run(story, [text[:3], text[3:7], text[7:]], body, control=[text[:5], text[5:]], usage=usage)
    assert apply(usage_correct(), case).verdict == "pass", apply(usage_correct(), case)
    plain = run(story, words(ids[:6]), control=words(ids[:7]), usage=usage)
    assert "usage.completion_tokens 8, but 6 tokens came" in apply(usage_correct(), plain).reason


@pytest.mark.parametrize(
    "body,prompt",
    [
        ({"seed": 7}, tokens.encode("Once")),
        ({"seed": 0}, tokens.encode("Once")),
        ({"prompt": [5, 6, 7], "seed": 7}, [5, 6, 7]),
        ({"prompt": [[5, 6]], "seed": 7}, [5, 6]),
        ({"prompt": ["Twice"], "seed": 7}, tokens.encode("Twice")),
        ({"prompt": [], "seed": 7}, []),
        ({"messages": [{"role": "user", "content": "Hi"}], "seed": 7}, tokens.encode("user: Hi\nassistant:")),
    ],
    ids=str,
)
def test_a_seed_and_a_prompt_of_the_requests_own_count(story: Make, body: dict[str, Any], prompt: list[int]) -> None:
    """In every form in which the frontend takes them; of each choice as well."""
    both = [words(tokens.generate(body["seed"] + choice, prompt, 5)) for choice in (0, 1)]
    pieces = [piece for pair in zip(*both, strict=True) for piece in pair]
    case = run(story, pieces, {**body, "n": 2}, choices=[0, 1] * 5)
    assert exact(case).verdict == "pass", exact(case)
    wrong = run(story, pieces, {**body, "n": 2, "seed": body["seed"] + 1}, choices=[0, 1] * 5)
    assert exact(wrong).verdict == "fail"


def test_without_a_control_all_that_was_asked_for_is_expected(story: Make, ids: list[int]) -> None:
    """``max_completion_tokens`` stands before ``max_tokens``, as for the frontend."""
    one = story()
    one.events = [(t, event) for t, event in one.events if getattr(event, "request", "") != "c"]
    one.request(100, "r", ids[:6], body={"max_tokens": 10, "max_completion_tokens": 6})
    one.request(100, "s", ids, index=1)
    assert exact(Case(one.end())).verdict == "pass"


def test_an_engine_that_is_not_the_claimed_one_is_told(story: Make, ids: list[int]) -> None:
    """The answer is the computed one, but that of the run without the fault is not: nobody knows what to expect."""
    case = run(story, words(ids), control=[*words(ids[:9]), " zozo"])
    assert exact(case).verdict == "unknown"
    assert "not what it claims to be" in exact(case).reason


@pytest.mark.parametrize("known", [True, False])
def test_an_answer_whose_client_left_lost_no_token(story: Make, ids: list[int], known: bool) -> None:
    """Those that it did not wait for are nobody's; one of those that came may still be wrong."""
    one = story(exact=known)
    one.request(100, "r", ids[:4], outcome="cancelled")
    count = count_tokens(Case(one.end()))
    assert (count.expected, count.received) == (4, 4)
    assert count.lost == count.altered == (0 if known else None)
    wrong = story()
    wrong.request(100, "r", [*ids[:3], ids[4]], outcome="cancelled")
    assert count_tokens(Case(wrong.end())).altered == 1
