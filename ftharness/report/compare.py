"""Two stored runs side by side: what passed before and does not now, what recovers sooner or later, what logs differently."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import median

import msgspec

from ftharness.report.clean import one_line
from ftharness.report.recovered import next_token_ms
from ftharness.report.run import MARKS, RunRecord, counts_as, excuse, of_findings
from ftharness.report.units import amount, milliseconds, pairs
from ftharness.scenario.record import Recovery, ScenarioRecord, Verdict, worst

_FIGURES: tuple[tuple[str, Callable[[Recovery], float | None]], ...] = (
    ("noticed", lambda recovery: recovery.detect_ms),
    ("rerouted", lambda recovery: recovery.reroute_ms),
    ("next token", next_token_ms),
    ("longest gap", lambda recovery: recovery.max_gap_ms),
    ("given up", lambda recovery: recovery.given_up_ms),
)
# Under this, a different figure is the machine's mood: a scheduler's tick, another program.
_NOTABLE_MS, _NOTABLE_PART = 5.0, 0.25
_MARKS = {"worse": MARKS["fail"], "better": MARKS["pass"], "same": "=", "other": "~", "untested": MARKS["unknown"]}


class Comparison(msgspec.Struct, frozen=True):
    """What is different.

    Attributes:
        lines: For a person.
        regressions: The scenarios that passed before and do not now, by name and stack.
        untested: Those that neither got worse nor better because one of the runs did not test them, by name and stack.
        common: How many scenarios are in both runs.
    """

    lines: list[str]
    regressions: list[str]
    untested: list[str]
    common: int


def compare(before: RunRecord, now: RunRecord) -> Comparison:
    """Compare two runs, scenario by scenario, from what their ``run.json`` say; repeats of one are taken together.

    A scenario that is in one run only is named, and is no regression: what was not run cannot have got worse. Nor can anything
    be said of one that a run did not test, unless it passed before or does now.
    """
    old, new = _by_key(before), _by_key(now)
    kinds = {key: _kind(old[key], new[key]) for key in old if key in new}
    lines = [line for key in old | new for line in _told(key, old.get(key, ()), new.get(key, ()))]
    lines.append(_summary(before, now, list(kinds.values()), gone=len(old) - len(kinds)))
    regressions, untested = ([_name(key) for key in kinds if kinds[key] == kind] for kind in ("worse", "untested"))
    return Comparison(lines, regressions, untested, len(kinds))


Key = tuple[str, str, str, str]


def _by_key(run: RunRecord) -> dict[Key, list[ScenarioRecord]]:
    found: dict[Key, list[ScenarioRecord]] = {}
    for one in run.scenarios:
        key = (one_line(one.name, 80), one_line(one.stack, 60), one_line(one.engine, 40), pairs(one.params, 120))
        found.setdefault(key, []).append(one)
    return found


def _name(key: Key) -> str:
    return " ".join(part for part in key if part)


def _told(key: Key, old: Sequence[ScenarioRecord], new: Sequence[ScenarioRecord]) -> Iterator[str]:
    """A scenario's line, and below it what differs."""
    if not new:
        yield f"- {_name(key)}: was {_verdicts(old)}, is not in the second run"
    elif not old:
        yield f"+ {_name(key)}: {_verdicts(new)}, is not in the first run"
    else:
        yield f"{_MARKS[_kind(old, new)]} {_name(key)}: {_change(_verdicts(old), _verdicts(new))}"
        yield from (f"    {line}" for line in _details(old, new))


def _counting(records: Iterable[ScenarioRecord]) -> Verdict:
    """The verdict over repeats; what is excused counts as passed, as in the exit status."""
    return worst(counts_as(one) for one in records)


def _kind(old: Sequence[ScenarioRecord], new: Sequence[ScenarioRecord]) -> str:
    before, now = _counting(old), _counting(new)
    if before != now and "pass" in (before, now):
        return "worse" if before == "pass" else "better"
    if "unknown" in (before, now):
        return "untested"
    return "same" if now == "pass" or _verdicts(old) == _verdicts(new) else "other"


def _verdicts(records: Sequence[ScenarioRecord]) -> str:
    """``pass``, or of several runs ``28 pass, 2 fail``."""
    said = [one.verdict + (f" ({note.kind.replace('_', ' ')})" if (note := excuse(one)) else "") for one in records]
    if len(said) == 1:
        return said[0]
    return ", ".join(f"{said.count(verdict)} {verdict}" for verdict in sorted(set(said)))


def _change(before: str, now: str) -> str:
    return now if before == now else f"{before} → {now}"


def _details(old: Sequence[ScenarioRecord], new: Sequence[ScenarioRecord]) -> Iterator[str]:
    versions = [", ".join(dict.fromkeys(one.sut_version for one in records)) for records in (old, new)]
    if versions[0] != versions[1]:
        yield f"version {one_line(versions[0], 40) or '–'} → {one_line(versions[1], 40) or '–'}"
    for run, records in (("first", old), ("second", new)):
        why = next((one.reason for one in records if one.verdict == "unknown" and excuse(one) is None), "")
        if why:
            yield f"not tested in the {run} run: {one_line(why, 200)}"
    yield from _oracles(old, new)
    for name, figure in _FIGURES:
        yield from _figure(name, _values(old, figure), _values(new, figure))
    yield from _figure("length", [one.duration_s * 1_000 for one in old], [one.duration_s * 1_000 for one in new])
    yield from _findings(old, new)
    yield from _lines("drift", [line for one in old for line in one.drift], [line for one in new for line in one.drift])
    yield from _lines("leak", [line for one in old for line in one.leaks], [line for one in new for line in one.leaks])


def _oracles(old: Sequence[ScenarioRecord], new: Sequence[ScenarioRecord]) -> Iterator[str]:
    """Those whose verdict changed, with the new reason; what passes needs none, and of what was not tested one is enough."""
    before, now = _oracle_verdicts(old), _oracle_verdicts(new)
    for name, (verdict, reason) in now.items():
        was = before.get(name, (None, ""))[0]
        if was is not None and was != verdict and not (verdict == "unknown" and reason.startswith("not tested: ")):
            yield f"{one_line(name, 80)}: {was} → {verdict}{f': {one_line(reason, 160)}' if verdict != 'pass' else ''}"


def _oracle_verdicts(records: Sequence[ScenarioRecord]) -> dict[str, tuple[Verdict, str]]:
    found: dict[str, tuple[Verdict, str]] = {}
    for oracle in (oracle for one in records for oracle in one.oracles):
        verdict, reason = found.get(oracle.name, ("pass", ""))
        # Of repeats the worst counts, and its first reason.
        counts = worst([verdict, oracle.verdict])
        found[oracle.name] = (counts, reason if counts == verdict and reason else oracle.reason)
    return found


def _findings(old: Sequence[ScenarioRecord], new: Sequence[ScenarioRecord]) -> Iterator[str]:
    """What is known of the failures of either run, and what did not show; what both say is said once."""
    told = [
        dict.fromkeys(
            f"{note.kind.replace('_', ' ')}: {one_line(note.reason, 300)}"
            for one in records
            for note in of_findings(one)
        )
        for records in (old, new)
    ]
    for line in told[0] | told[1]:
        run = "" if line in told[0] and line in told[1] else f" of the {'first' if line in told[0] else 'second'} run"
        kind, _, reason = line.partition(": ")
        yield f"{kind}{run}: {reason}"


def _values(records: Sequence[ScenarioRecord], figure: Callable[[Recovery], float | None]) -> list[float]:
    values = [figure(fault.recovery) for one in records for fault in one.faults]
    return [value for value in values if value is not None]


def _figure(name: str, old: Sequence[float], new: Sequence[float]) -> Iterator[str]:
    if not old and not new:
        return
    if not old or not new:
        yield f"{name} {_middle(old)} → {_middle(new)}"
        return
    before, now = median(old), median(new)
    change = now - before
    notable = abs(change) >= max(_NOTABLE_MS, _NOTABLE_PART * before)
    word = f"  ({'slower' if change > 0 else 'faster'} by {milliseconds(abs(change))})" if notable else ""
    yield f"{name} {_middle(old)} → {_middle(new)}{word}"


def _middle(values: Sequence[float]) -> str:
    if not values:
        return "–"
    return milliseconds(median(values)) + (f" (median of {len(values)})" if len(values) > 1 else "")


def _lines(what: str, old: Iterable[str], new: Iterable[str]) -> Iterator[str]:
    before, now = dict.fromkeys(old), dict.fromkeys(new)
    yield from (f"{what} gone: {one_line(line, 160)}" for line in before if line not in now)
    yield from (f"{what} new: {one_line(line, 160)}" for line in now if line not in before)


def _summary(before: RunRecord, now: RunRecord, kinds: Sequence[str], *, gone: int) -> str:
    empty = [name for name, run in (("first", before), ("second", now)) if not run.scenarios]
    if empty:
        whose = f"the {empty[0]} run holds" if len(empty) == 1 else "the two runs hold"
        return f"nothing to compare: {whose} no scenario"
    if not kinds:
        return "the two runs have no scenario in common"
    worse, untested = kinds.count("worse"), kinds.count("untested")
    compared = len(kinds) - untested
    if worse:
        noun, verb = ("scenario" if len(kinds) == 1 else "scenarios"), ("does" if worse == 1 else "do")
        said = f"{worse} of {len(kinds)} {noun} passed before and {verb} not now"
    else:
        said = f"no regressions in {amount(compared, 'scenario')}" if compared else "nothing could be compared"
    missing = [f"{untested} not tested in one of the runs"] if untested else []
    missing += [f"{gone} not in the second run"] if gone else []
    return "; ".join([said, *missing])
