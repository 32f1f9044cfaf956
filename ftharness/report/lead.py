"""What a scenario came to, in a few sentences: the first thing that a reader of the page reads."""

from collections import Counter
from collections.abc import Sequence

from ftharness.report.clean import one_line
from ftharness.report.crowd import crowd_of
from ftharness.report.jobs_done import jobs_done
from ftharness.report.moments import Moments
from ftharness.report.recovered import given_up, next_token_ms
from ftharness.report.stored import Stored
from ftharness.report.told_so import told_so
from ftharness.report.units import NS_PER_MS, amount, milliseconds
from ftharness.scenario.case import Case
from ftharness.scenario.departure import departed, departure_of
from ftharness.scenario.record import Recovery, TokenCount

# By the kind of fault, what became of its target; a kind that is not ours "was hit by" it.
_HAPPENED = {
    "kill": "was killed",
    "terminate": "was told to end",
    "interrupt": "was interrupted",
    "freeze": "was frozen",
    "thaw": "was thawed",
    "kill_engine": "lost its engine",
    "corrupt_checkpoint": "had a checkpoint damaged",
    "fill_disk": "had its disk filled to the last byte",
    "free_disk": "had its disk freed",
    "freeze_engine": "had its engine stopped",
    "disconnect": "closed its connection",
    "reset": "reset its connection",
    "cancel_task": "cancelled the task that awaited the answer",
    "kill_client": "was killed",
    "half_close": "closed its sending side",
}
_MOST_FAULTS = 3


def lead(stored: Stored) -> str:
    """Of the faults and the tokens; why the verdict is not ``pass`` is the record's own reason, and not said here."""
    alone, crowd = crowd_of(stored.faults)
    broke = next((one.struck for one in stored.faults if one.struck is not None and not one.harmless), None)
    alone, again = _once(alone)
    sentences = [
        _look(one, broke) if one.looked else _call(one) if one.asked else _fault(one, again.get(id(one), 1))
        for one in alone[:_MOST_FAULTS]
    ]
    if more := [one for one in alone[_MOST_FAULTS:] if not one.harmless]:
        sentences.append(f"{amount(len(more), 'more fault')} {'was' if len(more) == 1 else 'were'} injected.")
    if crowd:
        sentences.append(f"{crowd.what}: {crowd.how}{f'; {crowd.given_up}' if crowd.given_up else ''}.")
    if not stored.faults:
        sentences.append(_clients(stored) or "No fault was injected.")
    tokens = _of_whom(stored) or _told_so(stored) or token_words(stored.record.tokens)
    if done := jobs_done(stored.record):  # a process keeps its name
        sentences.append(f"{one_line(done, 200)}.")
    return " ".join([*sentences, f"{tokens[0].upper()}{tokens[1:]}." if tokens else ""]).strip()


def _once(faults: Sequence[Moments]) -> tuple[list[Moments], dict[int, int]]:
    """Of what befell the engine of one slot again and again only the first; and how often it did, by its ``id``."""
    first: dict[tuple[str, str, str], Moments] = {}
    told: list[Moments] = []
    for one in faults:
        same = (one.fault.kind, one.process, one.slot)
        if not one.slot or one.landed is None or first.setdefault(same, one) is one:
            told.append(one)
    counts = Counter((one.fault.kind, one.process, one.slot) for one in faults if one.landed is not None)
    return told, {id(one): counts[same] for same, one in first.items()}


def _clients(stored: Stored) -> str:
    """Of clients that went away by themselves, as a test lets them."""
    case = Case(stored.events)
    views = departed(case)
    if not views:
        return ""
    names = ", ".join(f"request {view.sent.index}" for view in views[:_MOST_FAULTS])
    more = f" and {len(views) - _MOST_FAULTS} more" if len(views) > _MOST_FAULTS else ""
    ends = [departure_of(case, view) for view in views]
    slowest = max(ends, key=lambda end: end.ms or 0.0)
    last = Recovery(given_up_ms=slowest.ms, given_up_by=slowest.worker, told=", ".join(slowest.told))
    said = f": {'the last ' if len(views) > 1 else ''}{words}" if (words := given_up(last)) else ""
    return f"The client{'s' if len(views) > 1 else ''} of {names}{more} left{said}."


def _of_whom(stored: Stored) -> str:
    """Whose tokens came, where clients went away: what they had by then, and what the others got; empty where some are wrong."""
    count = stored.record.tokens
    lanes = [lane for lane in stored.lanes.requests if not lane.control]
    left = [lane for lane in lanes if lane.status == "cancelled"]
    wrong = (count.lost, count.duplicated, count.altered)
    if not left or count.received != count.expected or any(wrong):
        return ""
    exact = ", each as expected" if wrong == (0, 0, 0) else ""
    others = len(lanes) - len(left)
    had = amount(sum(lane.tokens() for lane in left), "token")
    until = f"it had got {had} by then" if len(left) == 1 else f"those that left had got {had}"
    if not others:
        return f"{until}{exact}"
    rest = sum(lane.tokens() for lane in lanes) - sum(lane.tokens() for lane in left)
    whose = "the other request" if others == 1 else f"the {others:,} other requests"
    return f"{until}; all {amount(rest, 'token')} of {whose} came{exact}"


def _told_so(stored: Stored) -> str:
    """Of requests that failed with an engine, where that is all that they had to."""
    if not (said := told_so(stored.record)):
        return ""
    count = stored.record.tokens
    came = amount(count.received, "token")
    right = count.duplicated == count.altered == 0
    return f"requests: {said}; {came} came{', each as expected' if right else ''}"


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


def _look(one: Moments, broke: int | None) -> str:
    """What a process answered that was asked how it is, and how long after something was broken."""
    who = one_line(one.process or one.fault.target, 60)
    evidence = one.fault.evidence
    path, took = one_line(str(evidence.get("path", "")), 60), evidence.get("took_ms")
    time = f" in {milliseconds(took)}" if isinstance(took, int | float) else ""
    said = f"answered {path} with {one.answer}{time}"
    if one.answer == "no answer":
        said = f"gave no answer to {path}{time.replace(' in ', ' within ')}"
    late = (one.landed or 0) - broke if broke is not None else -1
    return f"{who} {said}{f', {milliseconds(late / NS_PER_MS)} after that' if late >= 0 else ''}."


def _call(one: Moments) -> str:
    """What a process was asked or told, and what came of it."""
    who, evidence = one_line(one.process or one.fault.target, 60), one.fault.evidence
    trigger = one_line(one.fault.trigger, 100)
    when = f" {trigger}" if trigger.startswith("on ") else ""
    if one.fault.kind == "end_job":
        return f"{who} was told to end{when}."
    if one.fault.kind == "count_engines":
        return f"The processes in the slots of {who} were counted{when}: {one.call.partition(': ')[2]}."
    took = evidence.get("took_ms")
    time = f" after {milliseconds(took)}" if isinstance(took, int | float) else ""
    answer = one_line(str(evidence.get("detail") or evidence.get("status", "")), 40)
    return f"{who} was asked for {one_line(str(evidence.get('asked', '')), 80)}{when}: {answer}{time}."


def _phase(one: Moments) -> str:
    """``in kv_transfer in decode-1``; of a process that was hit ``with request 0 in decode``."""
    phase = one_line(one.phase, 60)
    if one.left or one.request is None:
        return f"in {phase}"
    return f"with {one.request.name} in {phase.removesuffix(f' in {one.process}')}"


def _fault(one: Moments, times: int) -> str:
    """What befell a process, or several times the engine of a slot, and what followed."""
    who = one_line(one.process or one.fault.target, 60)
    if one.left and one.request:
        who = f"the client of {one.request.name}"
    kind = one_line(one.fault.kind, 40)
    happened = _lost_rank(one) or _of_a_slot(one) or _HAPPENED.get(one.fault.kind, f"was hit by {kind}")
    if one.landed is None:
        why = one_line(one.fault.missed or "no evidence that it did", 200)
        return f"The fault {kind} on {who} did not land: {why}."
    trigger = one_line(one.fault.trigger, 100).replace("on token", "at token", 1)
    phase = f", {_phase(one)}" if one.phase and one.fault.on_target else ""
    when = f" {trigger}" if trigger.startswith(("on ", "at ")) else ""
    often = f" {times} times{f', first{when}' if when else ''}" if times > 1 else when
    sentence = f"{who} {happened}{often}{phase}"
    sentence = f"{sentence[0].upper()}{sentence[1:]}" if one.left else sentence  # a process keeps its name
    if not one.fault.on_target and one.fault.evidence.get("request") == "was done with there":
        return f"{sentence}, but was done with the request."
    if not one.fault.on_target:
        return f"{sentence}, but what it was aimed at had already ended."
    if one.joined:
        started = one_line(str(one.fault.evidence.get("started", "one more")), 60)
        how = "was started in place of" if one.fault.kind == "restart" else "joined beside"
        return f"{started} {how} {who}{when}."
    if one.struck is not None and one.struck != one.landed:
        late = milliseconds((one.struck - one.landed) / NS_PER_MS)
        sentence += f"; its grace was over {late} later"
    steps = _steps(one)
    taken = ""
    if one.takeover:
        taken = f" It was {one.takeover.fencing}." if one.takeover.fencing else ""
        taken += f" {one.takeover.told}."
    if not steps:
        return f"{sentence}.{taken}"
    listed = steps[0] if len(steps) == 1 else f"{', '.join(steps[:-1])}, and {steps[-1]}"
    return f"{sentence}: {listed}.{taken}"


def _lost_rank(one: Moments) -> str:
    """Of a process that was hit below: ``lost its rank 1 by SIGTERM``."""
    if one.fault.kind != "kill_rank":
        return ""
    evidence = one.fault.evidence
    rank, by = (one_line(str(evidence.get(name, other)), 20) for name, other in (("rank", 0), ("signal", "SIGKILL")))
    return f"lost its rank {rank} by {by}"


def _of_a_slot(one: Moments) -> str:
    """Of a manager of pools: ``lost its engine main-1``."""
    happened = _HAPPENED.get(one.fault.kind, "")
    return happened.replace("its engine", f"its engine {one.slot}") if one.slot else ""


def _steps(one: Moments) -> list[str]:
    """What followed it, in words; a takeover is told apart."""
    recovery = one.fault.recovery
    steps = []
    noticed = recovery.detect_ms
    if one.left and one.detected is not None and one.struck is not None:
        noticed = (one.detected - one.struck) / NS_PER_MS
    if noticed is not None:
        steps.append(f"the frontend noticed after {milliseconds(noticed)}")
    if one.left and (said := given_up(recovery)):
        steps.append(f"its request was {said}" if said.startswith("given up") else said)
    if one.takeover:
        return steps
    if one.struck is not None and one.noticed is not None:
        steps.append(f"its manager noticed after {milliseconds((one.noticed - one.struck) / NS_PER_MS)}")
    if recovery.reroute_ms is not None:
        taker = one_line(one.rerouted_to, 40) or "another worker"
        steps.append(f"{taker} took over after {milliseconds(recovery.reroute_ms)}")
    first = next_token_ms(recovery)
    if first is not None:
        steps.append(f"the next token came after {milliseconds(first)}")
    elif recovery.max_gap_ms is not None:
        steps.append(f"the longest gap between tokens was {milliseconds(recovery.max_gap_ms)}")
    if one.healed is not None and one.struck is not None:
        since = milliseconds((one.healed - one.struck) / NS_PER_MS)
        steps.append(
            f"it stayed so until the teardown, {since} later" if one.at_end else f"it was healed after {since}"
        )
    if one.restored is not None and one.struck is not None:
        steps.append(f"it was ready again after {milliseconds((one.restored - one.struck) / NS_PER_MS)}")
    return steps
