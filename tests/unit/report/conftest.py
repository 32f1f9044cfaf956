"""Run folders to report on: histories as a migration run leaves them, made by rule from a seed, with real files."""

import json
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from ftharness.client import completion
from ftharness.faults import kill, serving
from ftharness.history import (
    Event,
    FaultHealed,
    FaultLanded,
    FaultMissed,
    FaultRequested,
    History,
    Leak,
    Log,
    ProcessExited,
    ProcessReady,
    ProcessSignalled,
    ProcessStarted,
    RequestChunk,
    RequestFinished,
    RequestSent,
    RunFinished,
    RunPhase,
    RunStarted,
)
from ftharness.report.run import RunRecord
from ftharness.scenario import Scenario, on_token, succeeds
from ftharness.scenario.record import (
    Annotation,
    FaultRecord,
    OracleRecord,
    Recovery,
    ScenarioRecord,
    TokenCount,
    worst,
)
from ftharness.scenario.runner import Cell, keep_cell
from ftharness.stack import aggregated

MS = 1_000_000


@dataclass
class Sample:
    """A migration run: two workers and a frontend, a control and then the fault, written as the runner would.

    ``ending`` is ``pass``, ``drop`` (a token is lost at the migration), ``hang`` (the error is swallowed), ``missed`` (the
    fault did not land), ``freeze`` (a stall that is healed) or ``killed`` (the harness dies in mid-stream).
    """

    ending: str = "pass"
    name: str = "migration/worker_failure"
    engine: str = "vllm"
    tokens: int = 300
    rate: float = 200.0
    kill_at: int = 64
    seed: int = 7
    requests: int = 1
    text: str = ""  # something nasty to hide in names, logs and reasons
    params: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path, path: str = ".") -> ScenarioRecord:
        """Write the scenario's files below ``folder`` and return its record."""
        self.random = random.Random(f"{self.seed} {self.ending} {self.engine}")  # noqa: S311 - sample data
        self.pending: list[tuple[int, Event]] = []
        self.oracles: list[OracleRecord] = []
        self.recovery, self.landed, self.requested, self.received = Recovery(), None, None, 0
        end = self._run()
        place = folder / path
        (place / "logs").mkdir(parents=True)
        self.pending.sort(key=lambda item: item[0])
        (place / "history.jsonl").unlink(missing_ok=True)
        with History(place / "history.jsonl", start_ns=0) as history:
            for t, event in self.pending:
                history.append(event, at=t)
        for name in ("frontend", "worker-1", "worker-2"):
            lines = [e.line for _, e in self.pending if isinstance(e, Log) and e.source == name]
            (place / "logs" / f"{name}.log").write_text("\n".join(lines) + "\n")
        keep_cell(self._cell(), place)
        if self.ending == "killed":
            whole = (place / "history.jsonl").read_bytes()
            (place / "history.jsonl").write_bytes(whole[: int(len(whole) * 0.7)])
        return self._record(path, end)

    def _cell(self) -> Cell:
        """What was run, for who judges it again: what holds of each ending but those that are to fail."""
        scenario = Scenario(
            name=self.name,
            topology=aggregated(workers=2),
            workload=[completion(max_tokens=self.tokens)] * self.requests,
            faults=[on_token(self.kill_at).inject(kill(serving))],
            expect=[succeeds()],
        )
        return Cell(scenario=scenario, stack="sim", engine=self.engine)

    def _at(self, t: float, event: Event) -> int:
        self.pending.append((int(t), event))
        return int(t)

    def _log(self, t: float, source: str, event: str, line: str, **captures: str) -> int:
        return self._at(t, Log(source=source, event=event, captures=captures, line=line + self.text))

    def _jitter(self, ms: float) -> float:
        return ms * MS * (1 + self.random.uniform(-0.12, 0.12))

    def _run(self) -> int:
        self._at(0, RunStarted(source="harness", scenario=self.name, stack="sim", engine=self.engine, seed=self.seed))
        self._at(0.2 * MS, RunPhase(source="harness", phase="launch"))
        for index, (name, role) in enumerate(
            (("frontend", "frontend"), ("worker-1", "aggregated"), ("worker-2", "aggregated"))
        ):
            pid = 40_120 + 3 * index
            argv = ["python", "-m", f"ftharness.engine.{role}", "--api-key", "***"]
            self._at((1 + index) * MS, ProcessStarted(source=name, pid=pid, role=role, argv=argv))
            ready = self._log((210 + 40 * index) * MS, name, "listening", "listening on 127.0.0.1:4127", port="4127")
            self._at(ready + MS // 5, ProcessReady(source=name, pid=pid, how="log event listening"))
            if role != "frontend":
                self._log(ready + MS, "frontend", "worker_joined", f"worker joined worker={name}", worker=name)
        t = 300 * MS
        self._at(t, RunPhase(source="harness", phase="control"))
        for index in range(self.requests):
            t = max(t, self._request(300 * MS + self._jitter(2), index, control=True))
        start = t + 3 * MS
        self._at(start, RunPhase(source="harness", phase="fault"))
        for index in range(self.requests):
            t = max(t, self._request(start + self._jitter(1), index, control=False))
        self._at(t + MS, RunPhase(source="harness", phase="teardown"))
        return self._teardown(t + MS)

    def _teardown(self, t: int) -> int:
        dead = "worker-1" if self.landed is not None and self.ending != "freeze" else ""
        for index, name in enumerate(("frontend", "worker-1", "worker-2")):
            if name != dead:
                pid = 40_120 + 3 * index
                self._at(
                    t + index * MS / 3, ProcessSignalled(source=name, pid=pid, signal="SIGTERM", reason="teardown")
                )
                self._at(t + self._jitter(24 + 9 * index), ProcessExited(source=name, pid=pid, returncode=0))
        if self.ending == "drop":
            self._at(
                t + 60 * MS, Leak(source="worker-1", what="process", detail="engine child 40133 lives", pid=40_133)
            )
        end = t + 70 * MS
        self._at(end, RunFinished(source="harness", outcome="complete"))
        return end

    def _request(self, sent: float, index: int, *, control: bool) -> int:
        request = f"ft-{self.seed:02d}-{'c' if control else 'r'}{index}-5f3a9c"
        body = {"prompt": "Once upon a time, in a data centre", "max_tokens": self.tokens, "stream": True}
        self._at(
            sent,
            RequestSent(
                source="client",
                request=request,
                endpoint="/v1/completions",
                body=body,
                stream=True,
                control=control,
                index=index,
            ),
        )
        received = self._log(
            sent + self._jitter(2.1), "worker-1", "request_received", f"New Request ID: {request}", request=request
        )
        t, base, aimed = received + self._jitter(11), received, not control and index == 0
        moved, serving = False, "worker-1"
        for token in range(self.tokens):
            if aimed and token == self.kill_at:
                after = self._fault(t, request)
                if after is None:
                    return self._hang(t, request)
                if after > t:
                    t, base, serving, moved = after, after, "worker-2", True
            elif not control and token == self.kill_at + 1 + index and not aimed and self.landed is not None:
                t += self._jitter(14)
            if self.ending == "drop" and aimed and token == self.kill_at:
                continue
            self._at(t, RequestChunk(source="client", request=request, first=token, tokens=1, text=f" tok{token % 97}"))
            self.received += 0 if control else 1
            t = max(t + 0.02 * MS, t + self._jitter(1000 / self.rate))
        del base, moved
        finish = "length" if not (self.ending == "drop" and aimed) else None
        done = self._at(
            t,
            RequestFinished(
                source="client",
                request=request,
                outcome="success",
                status=200,
                finish_reason=finish,
                usage={"completion_tokens": self.tokens},
            ),
        )
        self._log(done - 0.4 * MS, serving, "request_finished", f"Finished Request ID: {request}", request=request)
        return done

    def _fault(self, t: float, request: str) -> float | None:
        """Inject at ``t``; returns when the next token comes, None when none ever does, or ``t`` if nothing happened."""
        kind = "freeze" if self.ending == "freeze" else "kill"
        trigger = f"on token {self.kill_at} of request 0"
        asked = FaultRequested(
            source="harness", id="fault-1", fault=kind, target="serving", trigger=trigger, request=request
        )
        self.requested = self._at(t + 0.04 * MS, asked)
        if self.ending == "missed":
            self._at(
                t + 0.4 * MS,
                FaultMissed(source="harness", id="fault-1", reason="worker-1 (pid 40123) had exited before the signal"),
            )
            return t
        number = "SIGSTOP" if kind == "freeze" else "SIGKILL"
        self._at(
            t + 0.11 * MS,
            ProcessSignalled(source="worker-1", pid=40_123, signal=number, reason="fault", tree=kind == "kill"),
        )
        if kind == "freeze":
            self.landed = self._at(
                t + 0.3 * MS, FaultLanded(source="worker-1", id="fault-1", evidence={"state": "T", "pid": 40_123})
            )
            self._at(t + 900 * MS, ProcessSignalled(source="worker-1", pid=40_123, signal="SIGCONT", reason="fault"))
            self._at(t + 900.2 * MS, FaultHealed(source="worker-1", id="fault-1", evidence={"state": "S"}))
            first = t + 903 * MS
            self.recovery = Recovery(first_token_ms=(first - self.landed) / MS, max_gap_ms=908.4)
            return first
        self._at(t + 0.61 * MS, ProcessExited(source="worker-1", pid=40_123, signal="SIGKILL"))
        evidence = {"signal": "SIGKILL", "wait_status": 9, "pid": 40_123}
        landed = self.landed = self._at(t + 0.66 * MS, FaultLanded(source="worker-1", id="fault-1", evidence=evidence))
        noticed = self._log(
            landed + self._jitter(0.5),
            "frontend",
            "migration_started",
            'Stream disconnected, recreating stream error="Disconnected: connection reset by peer"',
            request=request,
            error="Disconnected",
        )
        self._log(noticed + 0.2 * MS, "frontend", "worker_left", "worker left worker=worker-1", worker="worker-1")
        if self.ending == "hang":
            self._log(
                noticed + 0.4 * MS, "frontend", "migration_exhausted", "Migration limit exhausted", request=request
            )
            self.recovery = Recovery(detect_ms=(noticed - landed) / MS)
            return None
        again = self._log(
            noticed + self._jitter(1.1), "worker-2", "request_received", f"New Request ID: {request}", request=request
        )
        for phase, ms in (("prefill", 1.6), ("decode", 4.1)):
            self._log(again + ms * MS, "worker-2", "request_phase", f"{request} phase={phase}", request=request)
        first = int(again + self._jitter(13))
        self.recovery = Recovery(
            detect_ms=(noticed - landed) / MS,
            reroute_ms=(again - landed) / MS,
            first_token_ms=(first - landed) / MS,
            max_gap_ms=(first - t) / MS + 4.9,
        )
        return first

    def _hang(self, t: float, request: str) -> int:
        error = "nothing arrived for 1 s, the request's deadline"
        return self._at(
            t + 1000 * MS,
            RequestFinished(source="client", request=request, outcome="hang", status=200, error=error + self.text),
        )

    def _oracle(self, name: str, verdict: str, reason: str, *wanted: str) -> None:
        """An oracle's word, resting on the fault phase's log events of these names."""
        logs = [e for _, e in self.pending if isinstance(e, Log) and e.event in wanted and (self.landed or 0) <= e.t]
        evidence = [e.n for e in logs[:3]]
        self.oracles.append(OracleRecord(name=name, verdict=verdict, reason=reason + self.text, evidence=evidence))

    def _record(self, path: str, end: int) -> ScenarioRecord:
        expected = self.tokens * self.requests
        pass_, ending = "pass", self.ending
        dropped, hung, missed = ending == "drop", ending == "hang", ending in ("missed", "killed")
        counts = TokenCount(
            expected=expected,
            received=self.received,
            lost=1 if dropped else expected - self.received if hung else 0,
            duplicated=0,
            altered=self.tokens - self.kill_at - 1 if dropped else 0,
        )
        none = "the fault did not land, so nothing was tested"
        self._oracle(
            "every_request_ends()",
            "fail" if hung else pass_,
            "request 0 neither ended nor failed within its deadline of 1 s: hang" if hung else "2 of 2 requests ended",
            "migration_exhausted",
        )
        if ending != "freeze":
            self._oracle(
                "migrated(times=1)",
                "unknown" if missed else "fail" if hung else pass_,
                none
                if missed
                else "no second worker got request 0"
                if hung
                else "once: worker-1 to worker-2, token 64",
                "migration_started",
                "request_received",
            )
        self._oracle(
            "tokens_exact()",
            "unknown" if missed else "fail" if dropped or hung else pass_,
            none
            if missed
            else f"request 0 lost 1 token: token {self.kill_at} is not what the control got; all after it differ"
            if dropped
            else f"request 0 got {self.kill_at} of {self.tokens} tokens"
            if hung
            else f"all {expected} tokens as in the control",
        )
        self._oracle("exits_explained()", pass_, "worker-1: SIGKILL (the fault); frontend, worker-2: exit 0 (teardown)")
        self._oracle(
            "no_leaks()",
            "fail" if dropped else pass_,
            "an engine child of worker-1 outlived it: pid 40133" if dropped else "nothing outlived its owner",
        )
        verdict = worst(one.verdict for one in self.oracles)
        bad = [one for one in self.oracles if one.verdict == verdict and verdict != "pass"]
        return ScenarioRecord(
            name=self.name,
            stack="sim",
            engine=self.engine,
            sut_version="0.1.0",
            params={"max_tokens": self.tokens, "endpoint": "completions", "stream": True} | self.params,
            path=path,
            verdict=verdict,
            reason=f"{bad[0].name}: {bad[0].reason}" if bad else "",
            annotations=[Annotation(kind="quarantined", reason="seen flaky on the nightly runner")] if hung else [],
            duration_s=end / 1e9,
            faults=[
                FaultRecord(
                    id="fault-1",
                    kind="freeze" if ending == "freeze" else "kill",
                    target="serving (worker-1)",
                    process="worker-1",
                    trigger=f"on token {self.kill_at} of request 0",
                    requested_ns=self.requested,
                    landed_ns=self.landed,
                    evidence={"state": "T", "pid": 40_123}
                    if ending == "freeze"
                    else {"signal": "SIGKILL", "wait_status": 9, "pid": 40_123}
                    if self.landed
                    else {},
                    missed="worker-1 (pid 40123) had exited before the signal" if missed else "",
                    recovery=self.recovery,
                )
            ],
            tokens=counts,
            oracles=self.oracles,
            leaks=["process: engine child 40133 of worker-1 lives"] if dropped else [],
            drift=["dynamo 1.9.0: no line for worker_joined was seen"] if ending == "missed" else [],
        )


def record_of(scenarios: list[ScenarioRecord]) -> RunRecord:
    """A run's record over these scenarios."""
    return RunRecord(
        ftharness="0.1.0",
        seed=7,
        started_at="2025-11-25T03:14:15+00:00",
        verdict=worst(scenario.verdict for scenario in scenarios),
        scenarios=scenarios,
    )


Make = Callable[..., RunRecord]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write the files of a run into ``tmp_path`` and return its record: one scenario a keyword dictionary."""

    def write(*samples: dict[str, Any], folder: Path = tmp_path) -> RunRecord:
        if len(samples) == 1:
            return record_of([Sample(**samples[0]).write(folder)])
        return record_of([Sample(**sample).write(folder, f"{index:02d}") for index, sample in enumerate(samples, 1)])

    return write


@pytest.fixture(scope="session")
def chromium() -> str:
    """A real browser; what needs it is skipped where there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("not applicable: no Chromium here; on Debian, `apt-get install chromium`")
    return path


@dataclass(frozen=True)
class Seen:
    """What a browser made of a page: the document after its script ran, and what the browser logged."""

    dom: str
    log: str

    @property
    def complaints(self) -> list[str]:
        """What stands in the console: errors, and what the page's own policy forbade."""
        return [line for line in self.log.splitlines() if "CONSOLE" in line]


Look = Callable[..., Seen]
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--enable-logging=stderr",
    "--window-size=1280,1000",
)


@pytest.fixture
def look(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Look:
    """Open a page in a real browser, of its own profile, without a network."""

    def opened(page: Path, *more: str) -> Seen:
        profile = tmp_path_factory.mktemp("profile")
        done = subprocess.run(
            [
                chromium,
                *_FLAGS,
                f"--user-data-dir={profile}",
                *more,
                "--dump-dom",
                page.as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return Seen(done.stdout, done.stderr)

    return opened


Measure = Callable[..., dict[str, Any]]
# Letters have room above and below them in their box, hence the inset.
PROBE = """<script>
const wrong = [];
const size = (text) => { const b = text.getBoundingClientRect(); return [b.left + 1, b.right - 1, b.top + 3, b.bottom - 3]; };
let labels = 0;
for (const svg of document.querySelectorAll("figure svg")) {
  const frame = svg.getBoundingClientRect();
  const boxes = [...svg.querySelectorAll("text:not(.cursor)")].map((text) => [text.textContent, ...size(text)]);
  labels += boxes.length;
  boxes.forEach(([a, left, right, top, bottom], i) => {
    const out = left < frame.left - 1 || right > frame.right + 1 || top < frame.top || bottom > frame.bottom;
    if (out) wrong.push(`${a} is cut off`);
    for (const [b, l, r, t, u] of boxes.slice(i + 1))
      if (left < r && l < right && top < u && t < bottom) wrong.push(`${a} over ${b}`);
  });
}
const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
document.body.dataset.wrong = JSON.stringify({ pictures: document.querySelectorAll("figure svg").length, labels, wrong, wide });
</script>"""


@pytest.fixture
def measure(look: Look, tmp_path: Path) -> Measure:
    """What a real browser makes of the labels of pictures, with a page's own style: how many, and which are wrong."""

    def measured(html: str, figures: list[str], *more: str) -> dict[str, Any]:
        style = re.search(r"<style>.*?</style>", html, re.DOTALL)
        assert style
        page = tmp_path / "pictures.html"
        page.write_text(f"<!doctype html><meta charset=utf-8>{style[0]}<main>{''.join(figures)}</main>{PROBE}")
        found = re.search(r'<body[^>]* data-wrong="([^"]*)"', look(page, *more).dom)
        assert found
        answer: dict[str, Any] = json.loads(unescape(found[1]))
        return answer

    return measured


def twelve() -> list[dict[str, Any]]:
    """The samples of a run with twelve cells, some of which did not pass."""
    endings = ["pass", "pass", "pass", "drop", "pass", "missed", "pass", "freeze", "pass", "hang", "pass", "pass"]
    engines = ["vllm", "sglang", "trtllm"]
    return [
        {"ending": ending, "engine": engines[index % 3], "seed": index, "params": {"cell": index}}
        for index, ending in enumerate(endings)
    ]


@pytest.fixture(name="record_of")
def _record_of() -> Callable[[list[ScenarioRecord]], RunRecord]:
    return record_of


@pytest.fixture(name="twelve")
def _twelve() -> list[dict[str, Any]]:
    return twelve()
