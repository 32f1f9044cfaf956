"""What a scenario came to, in a few sentences: the first thing that a reader of the page reads."""

from ftharness.report.clean import one_line
from ftharness.report.moments import Moments
from ftharness.report.recovered import next_token_ms
from ftharness.report.stored import Stored
from ftharness.report.units import NS_PER_MS, amount, milliseconds
from ftharness.scenario.record import TokenCount

# By the kind of fault, what became of its target; a kind that is not ours "was hit by" it.
_HAPPENED = {
    "kill": "was killed",
    "terminate": "was told to end",
    "interrupt": "was interrupted",
    "freeze": "was frozen",
    "thaw": "was thawed",
    "kill_engine": "lost its engine",
    "disconnect": "closed its connection",
    "reset": "reset its connection",
    "cancel_task": "cancelled the task that awaited the answer",
    "kill_client": "was killed",
    "half_close": "closed its sending side",
}
_MOST_FAULTS = 3


def lead(stored: Stored) -> str:
    """Of the faults and the tokens; why the verdict is not ``pass`` is the record's own reason, and not said here."""
    sentences = [_fault(one) for one in stored.faults[:_MOST_FAULTS]]
    if len(stored.faults) > _MOST_FAULTS:
        sentences.append(f"{len(stored.faults) - _MOST_FAULTS} more faults were injected.")
    if not stored.faults:
        sentences.append("No fault was injected.")
    tokens = token_words(stored.record.tokens)
    return " ".join([*sentences, f"{tokens[0].upper()}{tokens[1:]}." if tokens else ""]).strip()


def token_words(count: TokenCount) -> str:
    """``all 280 tokens came, each as expected``, or what became of them; empty where none were expected and none came."""
    if not count.expected and not count.received:
        return ""
    if count.expected is None:
        return f"{amount(count.received, 'token')} came"
    wrong = [
        f"{number:,} {word}"
        for number, word in (
            (count.lost, "lost"),
            (count.duplicated, "duplicated"),
            (count.altered, "altered"),
        )
        if number
    ]
    if wrong:
        return f"{count.received:,} of {amount(count.expected, 'token')} came: {', '.join(wrong)}"
    if count.received != count.expected:
        return f"{count.received:,} of {amount(count.expected, 'token')} came"
    exact = count.lost == count.duplicated == count.altered == 0
    return f"all {amount(count.expected, 'token')} came{', each as expected' if exact else ''}"


def _fault(one: Moments) -> str:
    who = one_line(one.process or one.fault.target, 60)
    kind = one_line(one.fault.kind, 40)
    happened = _HAPPENED.get(one.fault.kind, f"was hit by {kind}")
    if one.landed is None:
        why = one_line(one.fault.missed or "no evidence that it did", 200)
        return f"The fault {kind} on {who} did not land: {why}."
    trigger = one_line(one.fault.trigger, 100).replace("on token", "at token", 1)
    sentence = f"{who} {happened}{f' {trigger}' if trigger.startswith(('on ', 'at ')) else ''}"
    if not one.fault.on_target:
        return f"{sentence}, but what it was aimed at had already ended."
    recovery = one.fault.recovery
    steps = []
    if recovery.detect_ms is not None:
        steps.append(f"the frontend noticed after {milliseconds(recovery.detect_ms)}")
    if recovery.reroute_ms is not None:
        taker = one_line(one.rerouted_to, 40) or "another worker"
        steps.append(f"{taker} took over after {milliseconds(recovery.reroute_ms)}")
    first = next_token_ms(recovery)
    if first is not None:
        steps.append(f"the next token came after {milliseconds(first)}")
    elif recovery.max_gap_ms is not None:
        steps.append(f"the longest gap between tokens was {milliseconds(recovery.max_gap_ms)}")
    if one.healed is not None and one.struck is not None:
        steps.append(f"it was healed after {milliseconds((one.healed - one.struck) / NS_PER_MS)}")
    if one.struck is not None and one.struck != one.landed:
        late = milliseconds((one.struck - one.landed) / NS_PER_MS)
        sentence += f"; its grace was over {late} later"
    if not steps:
        return f"{sentence}."
    listed = steps[0] if len(steps) == 1 else f"{', '.join(steps[:-1])}, and {steps[-1]}"
    return f"{sentence}: {listed}."
