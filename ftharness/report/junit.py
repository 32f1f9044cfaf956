"""``junit.xml``: what every CI system reads. It counts as the exit status does."""

from collections import Counter
from collections.abc import Iterable
from xml.etree import ElementTree as ET

from ftharness.report.clean import plain, xml_text
from ftharness.report.run import RunRecord, counts_as, excuse
from ftharness.scenario.record import ScenarioRecord

JUNIT_FILE = "junit.xml"
_MESSAGE = 500


class Junit:
    """Takes the scenarios of a run one by one.

    ``fail`` is a failure and ``unknown`` an error, since neither may pass in CI; what is excused (a known finding, or it does
    not apply) is skipped. All else that is known stands in the properties.

    Args:
        record: The run.
    """

    def __init__(self, record: RunRecord) -> None:
        self._record = record
        self._root = ET.Element("testsuites", name="ftharness")
        self._suite = ET.SubElement(self._root, "testsuite", name="ftharness")
        self._names = Counter((_class(one), one.name) for one in record.scenarios)
        self._seen: Counter[tuple[str, str]] = Counter()
        self._counts: Counter[str] = Counter()

    def add(self, scenario: ScenarioRecord, story: str) -> None:
        """One scenario; ``story`` is told where it did not pass."""
        key = (_class(scenario), scenario.name)
        self._seen[key] += 1
        name = scenario.name if self._names[key] == 1 else f"{scenario.name} #{self._seen[key]}"
        case = self._case(name, key[0], scenario.duration_s)
        _properties(case, _facts(scenario))
        excused = excuse(scenario)
        if scenario.verdict == "pass":
            return
        if excused is not None:
            reasons = [note.reason for note in scenario.annotations if note.kind == excused.kind]
            self._told(case, "skipped", f"{excused.kind}: {'; '.join(reasons)}", scenario.verdict, story)
        else:
            outcome = "failure" if counts_as(scenario) == "fail" else "error"
            self._told(case, outcome, scenario.reason or scenario.verdict, scenario.verdict, story)

    def render(self) -> bytes:
        """The file."""
        if not self._record.scenarios:
            case = self._case("run", "ftharness", 0.0)
            self._told(case, "error", "no scenario was run, so nothing was tested", "unknown", "")
        for element in (self._root, self._suite):
            element.set("tests", str(self._counts["tests"]))
            element.set("failures", str(self._counts["failure"]))
            element.set("errors", str(self._counts["error"]))
            element.set("skipped", str(self._counts["skipped"]))
            element.set("time", f"{sum(one.duration_s for one in self._record.scenarios):.3f}")
        self._suite.set("timestamp", _text(self._record.started_at, 40))
        ET.indent(self._root)
        data: bytes = ET.tostring(self._root, encoding="utf-8", xml_declaration=True)
        return data + b"\n"

    def _case(self, name: str, class_: str, seconds: float) -> ET.Element:
        self._counts["tests"] += 1
        return ET.SubElement(
            self._suite, "testcase", name=_text(name, 200), classname=_text(class_, 200), time=f"{seconds:.3f}"
        )

    def _told(self, case: ET.Element, outcome: str, message: str, kind: str, story: str) -> None:
        self._counts[outcome] += 1
        element = ET.SubElement(case, outcome, message=_text(message, _MESSAGE), type=kind)
        element.text = xml_text(story)


def _class(scenario: ScenarioRecord) -> str:
    return ".".join(part for part in ("ftharness", scenario.stack, scenario.engine) if part)


def _facts(scenario: ScenarioRecord) -> Iterable[tuple[str, object]]:
    """What is known of a scenario, under names that are those of ``run.json``."""
    yield "verdict", scenario.verdict
    yield "sut_version", scenario.sut_version
    yield "path", scenario.path
    for key, value in scenario.params.items():
        yield f"params.{key}", value
    for place, fault in enumerate(scenario.faults):
        recovery = fault.recovery
        for key in recovery.__struct_fields__:
            yield f"faults.{place}.{key}", getattr(recovery, key)
    for key in scenario.tokens.__struct_fields__:
        yield f"tokens.{key}", getattr(scenario.tokens, key)
    for note in scenario.annotations:
        yield note.kind, note.reason
    for line in scenario.drift:
        yield "drift", line


def _properties(case: ET.Element, facts: Iterable[tuple[str, object]]) -> None:
    properties = ET.SubElement(case, "properties")
    for name, value in facts:
        if value not in (None, ""):
            ET.SubElement(properties, "property", name=_text(name, 100), value=_text(str(value), _MESSAGE))


def _text(text: str, limit: int) -> str:
    return xml_text(plain(text, limit))
