"""Whether the run without the fault is a reference, where an engine's tokens cannot be computed: its three controls.

An engine that decodes greedily should answer the same each time. Whether this one does was seen, not believed: it was asked
twice (``repeat``), it was given the begin of its own answer and had to go on with it (``cut``), and what it says is varied
enough for a lost token to show. Where one of these does not hold a difference means nothing, and neither does its absence.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ftharness.scenario.case import Case
from ftharness.scenario.expect import Expect
from ftharness.scenario.interruptions import interruptions
from ftharness.scenario.oracles.differences import Differences, differences, first_difference
from ftharness.scenario.views import RequestView

#: So many distinct tokens of so many in a row, at least; of fewer in proportion.
DISTINCT, OF = 50, 300

#: The oracles that compare an answer with the right one.
_RESTING = {"tokens_exact", "ends_as_asked", "ends_cleanly", "serves_again"}
#: A word with the space before it; put together they are the text again.
_WORD = re.compile(r"\s*\S+|\s+$")
#: What is counted of a text: its words, and each sign of a script that has no spaces between them (from U+2E80 on).
_UNIT = re.compile("[\u2e80-\U0010ffff]|[^\\s\u2e80-\U0010ffff]+")


def rests_on_tokens(expects: Iterable[Expect]) -> bool:
    """Whether something is expected that compares an answer's tokens."""
    return any(expect.oracle in _RESTING for expect in expects)


def samples(body: Mapping[str, Any]) -> bool:
    """Whether a request asks for chance, so that nothing it is answered can be expected once more."""
    return (body.get("temperature") or 0) > 0 and body.get("top_k") != 1


def is_text(body: Mapping[str, Any]) -> bool:
    """Whether a request's prompt is a text, to which the begin of its answer can be added."""
    return isinstance(body.get("prompt"), str) and "messages" not in body


def no_reference(case: Case, view: RequestView, control: RequestView) -> str:
    """Which control does not hold for that request, and how it was seen; "" where all do.

    One that no other worker went on with was made in one go, and does not rest on how the engine goes on from a cut.
    """
    return _not_repeated(case, view, control) or _not_continued(case, view, control) or _not_varied(case, control)


def unlike(case: Case, view: RequestView, control: RequestView) -> str:
    """How an answer differs from the reference: its text, how it ended, how many tokens the server says; "" where it does not."""
    for choice in range(view.choices):
        found = compared(case, view, control, choice)
        if found.first_wrong is not None:
            return f"choice {choice}: {found.said}: {_there(view, control, choice)}"
    return _other_end(view, control)


def compared(case: Case, view: RequestView, control: RequestView, choice: int, *, whole: bool = True) -> Differences:
    """An answer against the reference, or if it is not ``whole`` against the begin of that.

    In tokens, where those of both are known; else in words.
    """
    ours, theirs = view.text(choice), control.text(choice)
    ids, right = case.ids_of(view, choice), case.ids_of(control, choice)
    if ours == theirs or (not whole and theirs.startswith(ours)):
        same = _WORD.findall(ours) if ids is None else ids
        return differences(same, same)
    if ids is not None and right is not None and ids != right[: None if whole else len(ids)]:
        return differences(right if whole else right[: len(ids)], ids)
    words, wanted = _WORD.findall(ours), _WORD.findall(theirs)
    return differences(wanted if whole else wanted[: len(words)], words)


def shorter(case: Case, view: RequestView, control: RequestView) -> str:
    """Where an answer that was called complete has fewer tokens than each time without the fault; "" where it has not."""
    if view.finished is None or view.finished.outcome != "success":
        return ""
    ours = _count(case, view)
    whole = [
        one for one in (control, *case.checks_of(view, "repeat")) if one.finished and one.finished.outcome == "success"
    ]
    theirs = min((_count(case, one) for one in whole), default=0)
    return f"{ours} tokens, and {theirs} without the fault" if ours < theirs else ""


def said_of_the_reference(case: Case, control: RequestView) -> str:
    """How varied it is, for a person."""
    least, many, what = _variety(case, control)
    return f"{least} distinct {what} in {many}"


def _not_repeated(case: Case, view: RequestView, control: RequestView) -> str:
    again = case.checks_of(view, "repeat")
    if not again and not case.faults:
        again = [view]  # nothing was done to it: it is the same request once more
    if not again:
        return "the engine was not asked whether it repeats itself"
    for one in again:
        if one.finished is None or one.finished.outcome != "success":
            return f"the engine was asked to repeat itself, and did not answer: {one.how_it_ended}"
        if wrong := unlike(case, one, control):
            return f"the engine does not repeat itself: {wrong}"
    return ""


def _not_continued(case: Case, view: RequestView, control: RequestView) -> str:
    due = interruptions(case, view)
    if not due:
        return ""
    cuts = case.checks_of(view, "cut")
    if not cuts:
        return f"whether a prompt cut at token {due[0]} is continued as the reference was not tried: {_why_not(case, control)}"
    tries: dict[tuple[int, int], list[RequestView]] = {}
    for one in cuts:
        tries.setdefault((one.sent.cut, one.sent.cut_text), []).append(one)
    return next(filter(None, (_gone_on(case, its, control) for _, its in sorted(tries.items()))), "")


def _why_not(case: Case, control: RequestView) -> str:
    if case.phase_t("cut") is None:
        return "the run did not come so far"
    what = "its text" if case.ids_of(control) is None else "the prompt"
    why = f"which tokens {what} is made of cannot be told"
    return why if is_text(control.sent.body) else f"{why}, and its prompt is no text that could be gone on with"


def _gone_on(case: Case, tries: Sequence[RequestView], control: RequestView) -> str:
    """How the engine went on with one prompt otherwise than it had; "" where it went on as it had."""
    sent = tries[0].sent
    at = f"token {sent.cut}" + (f" (as text, of {sent.cut_text} characters)" if sent.cut_text else "")
    answered = [one for one in tries if one.finished is not None and one.finished.outcome == "success"]
    if not answered:
        last = tries[-1]
        again = f" (tried {len(tries)} times)" if len(tries) > 1 else ""
        return f"a prompt cut at {at} was not answered{again}, so nothing can be said: {last.how_it_ended}"
    for one in answered:
        wrong = _other_text(control, one) if sent.cut_text else _other_tokens(case, control, one)
        if wrong:
            return f"a prompt cut at {at} is not continued as the reference: {wrong}"
    return ""


def _other_tokens(case: Case, control: RequestView, one: RequestView) -> str:
    at = one.sent.cut
    rest, theirs = (case.ids_of(control) or [])[at:], case.ids_of(one)
    wrong = first_difference(rest, theirs) if theirs is not None else 0
    if wrong is not None and not (theirs is None and _ends_with(control, one, len(rest))):
        return f"first difference at token {at + wrong + 1}"
    return _other_reason(control, one)


def _other_text(control: RequestView, one: RequestView) -> str:
    """The same for a begin that was sent as text, which need not be read as the tokens that were made.

    If several tokens came as one, the rest is of fewer than was asked for: where nothing but the number ended the reference,
    the engine then goes on beyond it, and how that ends says nothing.
    """
    rest, theirs = control.text()[one.sent.cut_text :], one.text()
    counted = control.tokens == _said(control) and not control.stops
    beyond = not counted and _reason(control) == "length" and len(theirs) > len(rest) and theirs.startswith(rest)
    wrong = "" if beyond else _other_reason(control, one)
    if not beyond and theirs != rest:
        wrong = f"first difference at character {one.sent.cut_text + (first_difference(rest, theirs) or 0) + 1}"
    return wrong and f"{wrong}; a text that is cut may be read as other tokens than were made"


def _other_reason(control: RequestView, one: RequestView) -> str:
    ours, theirs = _reason(one), _reason(control)
    return "" if ours == theirs else f"it ended with {ours}, not {theirs}"


def _reason(view: RequestView) -> str | None:
    return view.finished.finish_reason if view.finished else None


def _ends_with(control: RequestView, one: RequestView, count: int) -> bool:
    """The same for a text whose tokens cannot be told, as it begins within a word."""
    return control.text().endswith(one.text()) and _said(one) in (None, count) and one.text() != ""


def _not_varied(case: Case, control: RequestView) -> str:
    least, many, what = _variety(case, control)
    # Few words for many tokens, where no spaces are, would be counted as varied, as a short answer is.
    made = max(many, (_said(control) or 0) // control.choices)
    needed = max(1, min(DISTINCT, math.ceil(made * DISTINCT / OF)))
    if least >= needed:
        return ""
    return f"the reference has only {least} distinct {what} in {many}: a lost one might not show, at least {needed} are needed"


def _variety(case: Case, control: RequestView) -> tuple[int, int, str]:
    """The fewest distinct tokens in 300 in a row, or in all of a shorter answer; of how many; and whether they are words."""
    found = []
    for choice in range(control.choices):
        ids = case.ids_of(control, choice)
        units: Sequence[int | str] = _UNIT.findall(control.text(choice)) if ids is None else ids
        found.append((_fewest(units), min(len(units), OF), "words" if ids is None else "tokens"))
    return min(found)


def _fewest(units: Sequence[int | str]) -> int:
    inside = Counter(units[:OF])
    fewest = len(inside)
    for leaves, enters in zip(units, units[OF:], strict=False):
        inside[enters] += 1
        inside[leaves] -= 1
        if not inside[leaves]:
            del inside[leaves]
        fewest = min(fewest, len(inside))
    return fewest


def _there(view: RequestView, control: RequestView, choice: int) -> str:
    """What stands in both at the first difference, for a person."""
    ours, theirs = (_WORD.findall(one.text(choice)) for one in (view, control))
    wrong = first_difference(theirs, ours) or 0
    said = [repr("".join(words[wrong : wrong + 3])) if wrong < len(words) else "nothing" for words in (ours, theirs)]
    return f"{said[0]}, and {said[1]} without the fault"


def _other_end(view: RequestView, control: RequestView) -> str:
    ours, theirs = view.finished, control.finished
    if ours is None or theirs is None:
        return "it did not end"
    for name in ("finish_reason", "finish_reasons"):
        a, b = getattr(ours, name), getattr(theirs, name)
        if a != b:
            return f"{name} {a}, and {b} without the fault"
    a, b = _said(view), _said(control)
    return f"usage.completion_tokens {a}, and {b} without the fault" if a != b else ""


def _said(view: RequestView) -> int | None:
    """How many tokens the server says that it made."""
    usage = view.finished.usage if view.finished else None
    return usage.get("completion_tokens") if usage else None


def _count(case: Case, view: RequestView) -> int:
    """How many tokens came: by their ids, else as the server says, else as the client could count."""
    ids = [case.ids_of(view, choice) for choice in range(view.choices)]
    known = [one for one in ids if one is not None]
    if len(known) == len(ids):
        return sum(map(len, known))
    said = _said(view)
    return view.tokens if said is None else said
