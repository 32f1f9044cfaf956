"""Whether the answer is the answer: ``tokens_exact``, and the count that stands in the report."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from difflib import Match, SequenceMatcher
from typing import NamedTuple, TypeVar

from ftharness.engine import tokens
from ftharness.engine.tokens import choice_seed
from ftharness.scenario.case import Case, Finding, short_of_passing
from ftharness.scenario.record import TokenCount
from ftharness.scenario.views import RequestView

Token = TypeVar("Token", bound=Hashable)

# Equal tokens in a row that chance does not bring about, of a vocabulary of 8,192.
_RUN = 4


class _Compared(NamedTuple):
    expected: int
    received: int
    lost: int
    duplicated: int
    altered: int
    first_wrong: int | None


def tokens_exact(case: Case) -> Finding:
    """Nothing lost, duplicated or altered.

    With our engine the tokens are known from the prompt and the seed; with any other, their number and the finish reason
    are compared with those of the run without the fault.
    """
    if not case.requests:
        return Finding("unknown", "no request was sent")
    if finding := short_of_passing(exact(case, view) for view in case.requests):
        return finding
    total = sum(view.tokens for view in case.requests)
    how = "each as computed from prompt and seed" if case.params.get("exact") else "as many as without the fault"
    return Finding("pass", f"{total} tokens, {how}")


def count_tokens(case: Case) -> TokenCount:
    """The tokens of all judged requests; lost, duplicated and altered only where they can be told.

    Of an answer whose client went away no more is expected than had come by then.
    """
    received = sum(view.tokens for view in case.requests)
    if not case.params.get("exact"):
        whole = [view if view.left else case.control_of(view) for view in case.requests]
        known = [one.tokens for one in whole if one is not None]
        return TokenCount(expected=sum(known) if known else None, received=received)
    compared = [
        _compare(case, view, choice, whole=not view.left) for view in case.requests for choice in range(view.choices)
    ]
    found = [result for result in compared if isinstance(result, _Compared)]
    return TokenCount(
        expected=sum(result.expected for result in found),
        received=received,
        lost=sum(result.lost for result in found),
        duplicated=sum(result.duplicated for result in found),
        altered=sum(result.altered for result in found),
    )


def exact(case: Case, view: RequestView) -> Finding:
    """The same of one request."""
    return _exact(case, view) if case.params.get("exact") else _counted(case, view)


def exact_so_far(case: Case, view: RequestView) -> Finding:
    """Of an answer that its client did not wait for: what came of it is the right one's begin, where that is known."""
    if not case.params.get("exact") or view.stops:
        return Finding("pass", "")
    for choice in range(view.choices):
        received = tokens.ids_of(view.text(choice))
        if received is None:
            return Finding("fail", f"{view.name}: {_foreign(choice)}")
        right = tokens.generate(_seed(case, view, choice), prompt_ids(view), len(received))
        if received != right:
            wrong = next(i for i, (a, b) in enumerate(zip(right, received, strict=True), 1) if a != b)
            return Finding("fail", f"{view.name}, choice {choice}: token {wrong} is not the one that belongs there")
    return Finding("pass", "")


def _exact(case: Case, view: RequestView) -> Finding:
    control = case.control_of(view)
    for choice in range(view.choices):
        compared = _compare(case, view, choice)
        if isinstance(compared, str):
            return Finding("fail", f"{view.name}: {compared}", tuple(chunk.n for chunk in view.chunks[-1:]))
        if compared.first_wrong is not None:
            at = next(
                (c for c in view.chunks if c.choice == choice and c.first + c.tokens > compared.first_wrong), None
            )
            return Finding(
                "fail",
                f"{view.name}, choice {choice}: of {compared.expected} tokens {compared.lost} lost, {compared.duplicated}"
                f" duplicated, {compared.altered} altered; the first at token {compared.first_wrong + 1}",
                (at.n,) if at else (),
            )
        if control is not None and control.text(choice) != view.text(choice):
            return Finding(
                "unknown",
                f"{view.name}, choice {choice}: its tokens are the computed ones, but those of the run without the fault"
                " are not: the engine is not what it claims to be",
            )
    return Finding("pass", "")


def _counted(case: Case, view: RequestView) -> Finding:
    control = case.control_of(view)
    if control is None or control.finished is None or view.finished is None:
        return Finding("unknown", f"{view.name}: no complete run without the fault to compare with")
    ours, theirs = _completion_tokens(view), _completion_tokens(control)
    if ours != theirs:
        return Finding("fail", f"{view.name}: {ours} tokens, and {theirs} without the fault", (view.finished.n,))
    if view.finished.finish_reason != control.finished.finish_reason:
        reasons = f"{view.finished.finish_reason}, and {control.finished.finish_reason} without the fault"
        return Finding("fail", f"{view.name}: finish_reason {reasons}", (view.finished.n,))
    return Finding("pass", "")


def _completion_tokens(view: RequestView) -> int:
    """As the server says; what the client could count where it does not."""
    usage = view.finished.usage if view.finished else None
    return int(usage["completion_tokens"]) if usage and "completion_tokens" in usage else view.tokens


def prompt_ids(view: RequestView) -> list[int]:
    """The request's prompt in our engine's tokens."""
    body = view.sent.body
    if "messages" in body:
        return tokens.encode(tokens.chat_prompt(body["messages"]))
    prompt = body["prompt"]
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):  # a batch of one
        prompt = prompt[0]
    return list(prompt) if isinstance(prompt, list) else tokens.encode(prompt)


def _compare(case: Case, view: RequestView, choice: int, *, whole: bool = True) -> _Compared | str:
    body, text = view.sent.body, view.text(choice)
    seed, foreign = _seed(case, view, choice), _foreign(choice)
    most = int(body.get("max_completion_tokens") or body["max_tokens"])
    if view.stops:  # such an answer may end within a word, which then is no token any more
        wanted, got = _words(_until(view.stops, tokens.generate(seed, prompt_ids(view), most))), _words(text)
        if tokens.ids_of(text[: text.rfind(" ")] if got else text) is None:
            return foreign
        return _differences(wanted if whole else wanted[: len(got)], got)
    received = tokens.ids_of(text)
    if received is None:
        return foreign
    control = case.control_of(view)
    if control is not None and control.finished is not None and control.finished.outcome == "success":
        most = sum(chunk.tokens for chunk in control.chunks if chunk.choice == choice)
    return _differences(tokens.generate(seed, prompt_ids(view), most if whole else len(received)), received)


def _seed(case: Case, view: RequestView, choice: int) -> int:
    """Of the chain that its tokens are made of."""
    own = view.sent.body.get("seed")
    return choice_seed(int(case.params.get("seed", 0) if own is None else own), choice)


def _foreign(choice: int) -> str:
    return f"choice {choice} holds text that is not made of the engine's tokens"


def _until(stops: Sequence[str], ids: Iterable[int]) -> str:
    """The text before the stop string that is complete first."""
    text = ""
    for token_id in ids:
        text += tokens.VOCABULARY[token_id]
        places = [at for at in map(text.find, stops) if at >= 0]
        if places:
            return text[: min(places)]
    return text


def _words(text: str) -> list[str]:
    return text[1:].split(" ") if text.startswith(" ") else []


def _differences(expected: Sequence[Token], received: Sequence[Token]) -> _Compared:
    if received == expected:
        return _Compared(len(expected), len(received), 0, 0, 0, None)
    wrong = next((i for i, (a, b) in enumerate(zip(expected, received, strict=False)) if a != b), None)
    first_wrong = min(len(expected), len(received)) if wrong is None else wrong
    return _sorted_out(expected, received, first_wrong)


def _sorted_out(expected: Sequence[Token], received: Sequence[Token], first_wrong: int) -> _Compared:
    """How the two differ, from the first difference on (what is before it is equal)."""
    tail, got = expected[first_wrong:], received[first_wrong:]
    matcher = SequenceMatcher(None, tail, got, autojunk=False)
    lost = duplicated = altered = a = b = 0
    for match in (*_alike(matcher.get_matching_blocks(), len(tail), len(got)), Match(len(tail), len(got), 0)):
        missing, extra = match.a - a, match.b - b
        altered += min(missing, extra)
        lost += max(0, missing - extra)
        duplicated += max(0, extra - missing)
        a, b = match.a + match.size, match.b + match.size
    return _Compared(len(expected), len(received), lost, duplicated, altered, first_wrong)


def _alike(blocks: Iterable[Match], expected: int, received: int) -> Iterator[Match]:
    """Runs of equal tokens that are no coincidence: of another answer's tokens, too, some stand where they should."""
    for block in blocks:
        at_the_end = block.a + block.size == expected and block.b + block.size == received
        if block.size >= _RUN or (at_the_end and block.size):
            yield block
