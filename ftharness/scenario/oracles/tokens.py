"""Whether the answer is the answer: ``tokens_exact``, and the count that stands in the report."""

from collections.abc import Iterable, Sequence

from ftharness.engine import tokens
from ftharness.engine.tokens import choice_seed
from ftharness.scenario.case import Case, Finding, short_of_passing
from ftharness.scenario.oracles import reference
from ftharness.scenario.oracles.differences import Differences, differences
from ftharness.scenario.record import TokenCount
from ftharness.scenario.views import RequestView


def tokens_exact(case: Case) -> Finding:
    """Nothing lost, duplicated or altered.

    With our engine the tokens are known from the prompt and the seed. With one that decodes greedily they are those of the
    run without the fault, if that is a reference. With any other, and of a request that asks for chance, their number and
    the finish reason are compared with those of the run without the fault.
    """
    if not case.requests:
        return Finding("unknown", "no request was sent")
    if finding := short_of_passing(exact(case, view) for view in case.requests):
        return finding
    total = sum(view.tokens for view in case.requests)
    return Finding("pass", f"{total} tokens, {_how(case)}")


def _how(case: Case) -> str:
    """What they were compared with."""
    if case.params.get("exact"):
        return "each as computed from prompt and seed"
    if not case.params.get("greedy"):
        return "as many as without the fault"
    chance = [view for view in case.requests if reference.samples(view.sent.body)]
    if chance:
        rest = "; the others each as without the fault" if len(chance) < len(case.requests) else ""
        return f"as many as without the fault: {chance[0].name} asks for chance, so there is no reference{rest}"
    controls = [control for view in case.requests if (control := case.control_of(view)) is not None]
    return f"each as without the fault ({reference.said_of_the_reference(case, controls[0])})"


def count_tokens(case: Case) -> TokenCount:
    """The tokens of all judged requests; lost, duplicated and altered only where they can be told.

    Of an answer whose client went away no more is expected than had come by then.
    """
    received = sum(view.tokens for view in case.requests)
    if case.params.get("greedy"):
        return _referred(case, received)
    if not case.params.get("exact"):
        whole = [view if view.left else case.control_of(view) for view in case.requests]
        known = [one.tokens for one in whole if one is not None]
        return TokenCount(expected=sum(known) if known else None, received=received)
    compared = [
        _compare(case, view, choice, whole=not view.left) for view in case.requests for choice in range(view.choices)
    ]
    found = [result for result in compared if isinstance(result, Differences)]
    return TokenCount(
        expected=sum(result.expected for result in found),
        received=received,
        lost=sum(result.lost for result in found),
        duplicated=sum(result.duplicated for result in found),
        altered=sum(result.altered for result in found),
    )


def exact(case: Case, view: RequestView) -> Finding:
    """The same of one request."""
    if case.params.get("exact"):
        return _exact(case, view)
    by_reference = case.params.get("greedy") and not reference.samples(view.sent.body)
    return _as_reference(case, view) if by_reference else _counted(case, view)


def doubtful(case: Case, finding: Finding) -> bool:
    """Whether an answer could have been compared, but for a control that does not hold.

    For an oracle that asks more than that the tokens are right, and does so also of engines of which they are not known.
    """
    return finding.verdict == "unknown" and bool(case.params.get("greedy")) and bool(case.control)


def exact_so_far(case: Case, view: RequestView) -> Finding:
    """Of an answer that its client did not wait for: what came of it is the right one's begin, where that is known."""
    if case.params.get("greedy") and view.tokens and not reference.samples(view.sent.body):
        return _as_reference(case, view, whole=False)
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
            what = f"{view.name}, choice {choice}: {compared.said}"
            return Finding("fail", what, _chunk_of(view, choice, compared.first_wrong))
        if control is not None and control.text(choice) != view.text(choice):
            return Finding(
                "unknown",
                f"{view.name}, choice {choice}: its tokens are the computed ones, but those of the run without the fault"
                " are not: the engine is not what it claims to be",
            )
    return Finding("pass", "")


def _chunk_of(view: RequestView, choice: int, token: int) -> tuple[int, ...]:
    """The event that brought a token, counted from 0."""
    return tuple(c.n for c in view.chunks if c.choice == choice and c.first <= token < c.first + c.tokens)[:1]


def _as_reference(case: Case, view: RequestView, *, whole: bool = True) -> Finding:
    """Against the run without the fault. Where that is no reference only a missing end is a failure."""
    control, end = case.control_of(view), view.finished
    if control is None or control.finished is None or end is None:
        return Finding("unknown", f"{view.name}: no complete run without the fault to compare with")
    if whole and (short := reference.shorter(case, view, control)):
        return Finding("fail", f"{view.name}: {short}{_where(case, view, control)}", (end.n,))
    if why := reference.no_reference(case, view, control):
        return Finding("unknown", f"{view.name}: {why}")
    for choice in range(view.choices):
        found = reference.compared(case, view, control, choice, whole=whole)
        if found.first_wrong is not None:
            what = f"{view.name}, choice {choice}: {found.said}"
            return Finding("fail", what, _chunk_of(view, choice, found.first_wrong))
    if whole and (wrong := reference.unlike(case, view, control)):
        return Finding("fail", f"{view.name}: {wrong}", (end.n,))
    return Finding("pass", "")


def _where(case: Case, view: RequestView, control: RequestView) -> str:
    """Where the missing ones are missing, if the run without the fault can say."""
    if reference.no_reference(case, view, control):
        return ""
    found = [reference.compared(case, view, control, choice) for choice in range(view.choices)]
    return next((f"; {one.said}" for one in found if one.first_wrong is not None), "")


def _referred(case: Case, received: int) -> TokenCount:
    """The count by the run without the fault; of what became of them nothing, unless that is a reference for all."""
    pairs = [(view, case.control_of(view)) for view in case.requests]
    known = [(view, control) for view, control in pairs if control is not None]
    expected = sum((view if view.left else control).tokens for view, control in known) if known else None
    if len(known) < len(pairs) or any(
        reference.samples(view.sent.body) or reference.no_reference(case, view, control) for view, control in known
    ):
        return TokenCount(expected=expected, received=received)
    found = [
        reference.compared(case, view, control, choice, whole=not view.left)
        for view, control in known
        for choice in range(view.choices)
    ]
    return TokenCount(
        expected=expected,
        received=received,
        lost=sum(one.lost for one in found),
        duplicated=sum(one.duplicated for one in found),
        altered=sum(one.altered for one in found),
    )


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


def _compare(case: Case, view: RequestView, choice: int, *, whole: bool = True) -> Differences | str:
    body, text = view.sent.body, view.text(choice)
    seed, foreign = _seed(case, view, choice), _foreign(choice)
    most = int(body.get("max_completion_tokens") or body["max_tokens"])
    if view.stops:  # such an answer may end within a word, which then is no token any more
        wanted, got = _words(_until(view.stops, tokens.generate(seed, prompt_ids(view), most))), _words(text)
        if tokens.ids_of(text[: text.rfind(" ")] if got else text) is None:
            return foreign
        return differences(wanted if whole else wanted[: len(got)], got)
    received = tokens.ids_of(text)
    if received is None:
        return foreign
    control = case.control_of(view)
    if control is not None and control.finished is not None and control.finished.outcome == "success":
        most = sum(chunk.tokens for chunk in control.chunks if chunk.choice == choice)
    return differences(tokens.generate(seed, prompt_ids(view), most if whole else len(received)), received)


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
