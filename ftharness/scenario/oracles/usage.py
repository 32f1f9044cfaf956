"""Whether the rest of the answer survived: ``usage_correct``."""

from ftharness.scenario.case import Case, Finding, RequestView


def usage_correct(case: Case) -> Finding:
    """Usage, finish reasons, stop strings, choices and log probabilities equal those of the run without the fault."""
    if not case.requests:
        return Finding("unknown", "no request was sent")
    for view in case.requests:
        control = case.control_of(view)
        if control is None or control.finished is None:
            return Finding("unknown", f"{view.name}: no complete run without the fault to compare with")
        wrong = _difference(view, control)
        if wrong:
            return Finding("fail", f"{view.name}: {wrong}", (view.finished.n,) if view.finished else ())
    return Finding("pass", f"as without the fault: {_said(case.requests[0])}")


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
    if ours.usage and ours.usage.get("completion_tokens") not in (None, view.tokens) and control.tokens != view.tokens:
        return f"usage.completion_tokens {ours.usage['completion_tokens']}, but {view.tokens} tokens came"
    for stop in view.sent.body.get("stop", ()):
        if any(stop in view.text(choice) for choice in range(view.choices)):
            return f"the stop string {stop!r} is in the answer"
    return ""


def _said(view: RequestView) -> str:
    end = view.finished
    assert end is not None
    return f"finish_reason {end.finish_reason}, usage {end.usage}"
