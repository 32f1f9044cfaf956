"""The page, as a file and in a real browser."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ftharness.report import RunRecord, write_report
from ftharness.report.units import milliseconds

Make = Callable[..., RunRecord]
Measure = Callable[[str, list[str]], dict[str, Any]]
Look = Callable[..., Any]

OWN = "document.documentElement.dataset.owned=1"
NASTY = (
    f"<script>{OWN}</script></style></title></svg></textarea>--><img src=x onerror={OWN}>"
    "\x1b[31mred\x1b[0m\x1b]0;title\x07\x00\u202e ]]> {{ 7*7 }} &amp; \"'><b>bold"
)


class Document(HTMLParser):
    """Elements by name, and the text that a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.facts: dict[str, str] = {}
        self._hidden, self._term = 0, ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._hidden += tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)
            if self.tags and self.tags[-1][0] == "dd":
                self.facts[self._term] = data
            self._term = data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def page_of(tmp_path: Path) -> Document:
    return Document((tmp_path / "report.html").read_text())


def test_the_page_says_what_run_json_says(make: Make, tmp_path: Path) -> None:
    """Each oracle's verdict and reason, the fault's evidence, its recovery figures and the tokens are in the page's text."""
    write_report(tmp_path, make({"ending": "drop"}))
    said = json.loads((tmp_path / "run.json").read_text())["scenarios"][0]
    text = page_of(tmp_path).text
    fault = said["faults"][0]
    for oracle in said["oracles"]:
        assert oracle["name"] in text
        assert oracle["reason"] in text
    facts = page_of(tmp_path).facts
    assert {key.replace("_", " "): str(value) for key, value in fault["evidence"].items()}.items() <= facts.items()
    assert (facts["target"], facts["trigger"]) == (fault["target"], fault["trigger"])
    names = ("until noticed", "until rerouted", "until the next token", "longest gap")
    keys = ("detect_ms", "reroute_ms", "first_token_ms", "max_gap_ms")
    for name, key in zip(names, keys, strict=True):
        assert f"{milliseconds(fault['recovery'][key])} {name}" in text
    assert facts["next token"] == f"after {milliseconds(fault['recovery']['first_token_ms'])}"
    assert f"{said['tokens']['received']} / {said['tokens']['expected']} tokens received" in text
    assert f"{said['tokens']['lost']} lost" in text
    assert said["leaks"][0] in text
    assert said["name"] in text
    assert text.count(said["reason"]) == 1


def test_the_fault_is_told_in_one_sentence(make: Make, tmp_path: Path) -> None:
    """Who was hit at which moment, who noticed, who took over, and what became of the tokens."""
    write_report(tmp_path, make({}))
    lead = page_of(tmp_path).text
    assert "worker-1 was killed at token 64 of request 0: the frontend noticed after" in lead
    assert re.search(
        r"worker-2 took over after [\d.]+ ms, and the next token came after [\d.]+ ms\. All 300 tokens came", lead
    )


def test_log_lines_that_were_evidence_name_their_oracle(make: Make, tmp_path: Path) -> None:
    """The line that proves the migration stands there whole, with the oracle that rests on it."""
    write_report(tmp_path, make({}))
    assert (
        'Stream disconnected, recreating stream error="Disconnected: connection reset by peer" evidence of migrated(times=1)'
        in page_of(tmp_path).text
    )


def test_every_link_leads_to_a_file_of_the_run(make: Make, tmp_path: Path, twelve: list[dict[str, object]]) -> None:
    """Logs, histories and traces are linked, relative to the page, at the first writing too; none leads out or nowhere."""
    write_report(tmp_path, make(*twelve))
    document = page_of(tmp_path)
    hrefs = [attributes["href"] or "" for tag, attributes in document.tags if tag == "a"]
    files = {href for href in hrefs if not href.startswith("#")}
    ids = {attributes.get("id") for _, attributes in document.tags}
    assert all((tmp_path / href).is_file() for href in files)
    assert all(href[1:] in ids for href in hrefs if href.startswith("#"))
    assert {"04/history.jsonl", "04/trace.json", "04/logs/worker-1.log", "run.json", "junit.xml"} <= files


def test_each_of_the_other_runs_says_where_it_ran(make: Make, tmp_path: Path) -> None:
    """Of one scenario on several engines: the rows below would be told apart by nothing else."""
    engines = ["vllm", "sglang", "trtllm"] * 5
    write_report(
        tmp_path, make(*({"tokens": 80, "engine": engine, "seed": seed} for seed, engine in enumerate(engines)))
    )
    rows = re.findall(r'<tr id="s(\d+)">.*?<small>sim · (\w+) · ', (tmp_path / "report.html").read_text())
    assert len(rows) == 12
    assert all(engine == engines[int(place) - 1] for place, engine in rows)


def test_the_page_needs_nothing_but_itself(make: Make, tmp_path: Path) -> None:
    """No source, no style sheet, no address of a network anywhere in it, but the name space of SVG."""
    write_report(tmp_path, make({"ending": "drop"}))
    document = page_of(tmp_path)
    assert not any(attributes.get("src") or attributes.get("srcset") for _, attributes in document.tags)
    assert [attributes["href"] for tag, attributes in document.tags if tag == "link"] == ["data:,"]
    assert set(re.findall(r"https?://[^\s\"'<]*", (tmp_path / "report.html").read_text())) <= {
        "http://www.w3.org/2000/svg"
    }


@pytest.mark.parametrize(
    "sample, most",
    [
        ({"ending": "drop"}, 70_000),
        ({"tokens": 8192}, 90_000),
        ({"requests": 200, "tokens": 70}, 250_000),
        ({"ending": "drop", "text": NASTY * 40}, 400_000),
    ],
    ids=["usual", "8192 tokens", "200 requests", "long log lines"],
)
def test_the_page_of_one_scenario_is_small(make: Make, tmp_path: Path, sample: dict[str, object], most: int) -> None:
    """Far under a megabyte, however long the stream is, however many requests there are, whatever logs say."""
    write_report(tmp_path, make(sample))
    assert 20_000 < (tmp_path / "report.html").stat().st_size < most


def test_two_hundred_runs_are_one_page(make: Make, tmp_path: Path) -> None:
    """All are in it and can be reached; pictures are drawn of what did not pass, as far as there is room, and the first."""
    samples = [
        {"tokens": 30, "kill_at": 9, "seed": seed, "ending": "drop" if seed % 6 == 5 else "pass"} for seed in range(200)
    ]
    record = make(*samples)
    write_report(tmp_path, record)
    document = page_of(tmp_path)
    cells = [attributes for tag, attributes in document.tags if "cell" in (attributes.get("class") or "").split()]
    assert len(cells) == 200
    assert (
        sum("fail" in (cell["class"] or "") for cell in cells)
        == sum(one.verdict == "fail" for one in record.scenarios)
        == 33
    )
    assert document.text.count("The whole run of ") == 15
    assert "200 runs 167 pass 33 fail" in document.text
    assert (tmp_path / "report.html").stat().st_size < 2_000_000


def test_a_real_browser_shows_the_page_without_complaint(
    make: Make, tmp_path: Path, look: Look, twelve: list[dict[str, object]]
) -> None:
    """Its own policy lets its style and its script through, the script runs to its end, and the console stays empty."""
    write_report(tmp_path, make(*twelve))
    seen = look(tmp_path / "report.html")
    assert seen.complaints == []
    assert Document(seen.dom).tags[0] == ("html", {"lang": "en", "data-ready": "yes"})


@pytest.mark.parametrize("guarded", [True, False], ids=["as written", "without its policy"])
def test_nothing_that_a_log_says_is_executed(make: Make, tmp_path: Path, look: Look, guarded: bool) -> None:
    """Scripts, handlers and closing tags in names, reasons, logs and parameters are text, by escaping alone too."""
    record = make({"ending": "drop", "name": f"x/{NASTY}", "engine": NASTY, "text": NASTY, "params": {NASTY: NASTY}})
    write_report(tmp_path, record)
    page = tmp_path / "report.html"
    if not guarded:
        bare, cut = re.subn(r"<meta http-equiv[^>]*>", "", page.read_text())
        assert cut == 1
        page.write_text(bare)
    seen = look(page)
    document = Document(seen.dom)
    assert seen.complaints == []
    assert "data-owned" not in document.tags[0][1]
    assert document.count("script") == 1
    assert document.count("img") == 0
    assert not any(name.startswith("on") for _, attributes in document.tags for name in attributes)
    assert f"<script>{OWN}</script></style>" in document.text
    assert "\x1b" not in page.read_text()
    assert "\u202e" not in page.read_text()
    assert "{{ 7*7 }}" in document.text


def test_no_label_of_a_picture_covers_another(make: Make, tmp_path: Path, measure: Measure) -> None:
    """Measured in a real browser, on the pictures of seven runs: labels keep clear of each other and of the edge."""
    samples: list[dict[str, object]] = [{"ending": ending} for ending in ("pass", "drop", "freeze", "hang", "missed")]
    samples += [{"requests": 8, "kill_at": 3}, {"tokens": 2000}]
    figures: list[str] = []
    for place, sample in enumerate(samples):
        folder = tmp_path / str(place)
        html = write_report(folder, make(sample, folder=folder)).read_text()
        figures += re.findall(r"<figure>.*?</figure>", html, re.DOTALL)
    measured = measure(html, figures)
    assert measured["pictures"] == len(figures) >= 19
    assert measured["labels"] > 400
    assert measured["wrong"] == []
    assert not measured["wide"]


def test_what_pictures_share_is_in_none_that_is_folded_up(make: Make, tmp_path: Path) -> None:
    """A browser does not draw with a pattern out of a section that is closed."""
    html = write_report(tmp_path, make({}, {})).read_text()
    assert html.count('id="hatch"') == 1
    assert html.index('id="hatch"') < html.index("<details")


# What a printer is given, shown on a screen as wide as a sheet of A4.
PRINTED = """<script>
for (const sheet of document.styleSheets)
  for (const rule of [...sheet.cssRules])
    if (rule.media?.mediaText === "print")
      for (const inner of rule.cssRules) sheet.insertRule(inner.cssText, sheet.cssRules.length);
const frames = [...document.querySelectorAll(".scroll, .wide")];
const cut = frames.filter((frame) => frame.scrollWidth > frame.clientWidth + 1).map((frame) => frame.textContent.slice(0, 60));
document.body.dataset.printed = JSON.stringify({ frames: frames.length, cut });
</script></body>"""


def test_nothing_is_cut_off_on_paper(make: Make, tmp_path: Path, look: Look) -> None:
    """Where nobody can scroll: pictures are as wide as the sheet, and tables wrap."""
    page = write_report(tmp_path, make({"ending": "drop"}, {}))
    html = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text()).replace("<details", "<details open")
    page.write_text(html.replace("</body>", PRINTED))
    body = next(
        attributes for tag, attributes in Document(look(page, "--window-size=720,1000").dom).tags if tag == "body"
    )
    printed = json.loads(body["data-printed"] or "")
    assert printed["frames"] > 5
    assert printed["cut"] == []


def test_a_page_is_rendered_within_its_part_of_a_run(make: Make, tmp_path: Path) -> None:
    """A run has 4 s in all; its report, imports included, costs some 0.12 s of a processor (0.4 s on a busy machine)."""
    make_record = make({})
    write_report(tmp_path, make_record)
    code = (
        "import sys, time; from pathlib import Path; import ftharness.report as r; f = Path(sys.argv[1]); run = r.read_run(f);"
        "assert 'jinja2' not in sys.modules and 'xml.etree' not in sys.modules;"
        "begin = time.process_time(); r.write_report(f, run); print(time.process_time() - begin)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert float(done.stdout) < 0.4
