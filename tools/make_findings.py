"""Write the known findings into docs/findings.md, between its two marks: ``python tools/make_findings.py``."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ftharness.scenario.findings import KnownFinding, known_findings

PAGE = Path(__file__).parents[1] / "docs" / "findings.md"
BEGIN, END = "<!-- findings: written by tools/make_findings.py -->\n", "<!-- end of findings -->\n"

#: Whose it has to be, where that is not what it is for all.
_OF = {"hit": "", "shown": ", of a process by which it shows above", "any": ", of any process, with or without a fault"}


def page(text: str, findings: Sequence[KnownFinding]) -> str:
    """The page with these findings between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    lines = "\n".join(_lines(findings)) if findings else "None so far."
    return f"{before}{BEGIN}\n{lines}\n\n{END}{after}"


def _lines(findings: Sequence[KnownFinding]) -> Iterator[str]:
    yield "| finding | stack | versions | seen | scenarios | since |"
    yield "|---|---|---|---|---|---|"
    for one in findings:
        scenarios = ", ".join(f"`{name}`" for name in one.scenarios)
        yield f"| [{one.title}](#{one.id}) | {_stacks(one)} | `{_cell(one.versions)}` | {one.seen} | {scenarios} | {one.since} |"
    for one in findings:
        where = f"On {_stacks(one)} `{one.versions}`, seen {one.seen}, first on {one.since}."
        yield f"\n## {one.id}\n\n**{one.title}.** {where}\n\n{one.what}\n"
        yield from (f"- `{shows.oracle}()` says `{shows.reason}`{_OF[shows.of]}" for shows in one.shows)
        yield f"\n```bash\n{one.reproduction}\n```"


def _stacks(one: KnownFinding) -> str:
    engines = f" with {', '.join(one.engines)}" if one.engines else ""
    return f"{', '.join(f'`{name}`' for name in one.stacks)}{engines}"


def _cell(text: str) -> str:
    """A bar would end the table's cell."""
    return text.replace("|", r"\|")


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), known_findings()), encoding="utf-8")
    print(PAGE)
