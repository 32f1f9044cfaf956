"""Whether the rest of the answer survived: ``usage_correct``."""

from ftharness.scenario.case import Case, Finding, short_of_passing
from ftharness.scenario.views import RequestView


def usage_correct(case: Case) -> Finding:
    """Usage, finish reasons, stop strings, choices and log probabilities equal those of the run without the fault."""
    if not case.requests:
        return Finding("unknown", "no request was sent")
    if finding := short_of_passing(_compared(case, view) for view in case.requests):
        return finding
    return Finding("pass", f"as without the fault: {_said(case.requests[0])}")


def _compared(case: Case, view: RequestView) -> Finding:
    control = case.control_of(view)
    if control is None or control.finished is None:
        return Finding("unknown", f"{view.name}: no complete run without the fault to compare with")
    if wrong := _difference(view, control):
        return Finding("fail", f"{view.name}: {wrong}", (view.finished.n,) if view.finished else ())
    return Finding("pass", "")


def _difference(view: RequestView, control: RequestView) -> str:
    ours, theirs = view.finished, control.finished
    assert theirs is not None
    if ours is None:
        return "it did not end"
    for name in ("finish_reason", "finish_reasons", "logprobs"):
        a, b = getattr(ours, name), getattr(theirs, name)
        if a != b:
            return f"{name} {a!r}, and {b!r} without the fault"
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        a, b = (ours.usage or {}).get(name), (theirs.usage or {}).get(name)
        if a != b:
            return f"usage.{name} {a}, and {b} without the fault"
    counted = (ours.usage or {}).get("completion_tokens")
    # What is held back for a stop string comes as parts of words: the client cannot count them, and part of it never comes.
    if not view.stops and counted not in (None, view.tokens) and control.tokens != view.tokens:
        return f"usage.completion_tokens {counted}, but {view.tokens} tokens came"
    for stop in view.stops:
        if any(stop in view.text(choice) for choice in range(view.choices)):
            return f"the stop string {stop!r} is in the answer"
    return ""


def _said(view: RequestView) -> str:
    end = view.finished
    assert end is not None
    return f"finish_reason {end.finish_reason}, usage {end.usage}"
