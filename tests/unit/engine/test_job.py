"""The job program by itself: real processes, killed and started again on the same folder, and what their log says."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ftharness.engine.job_digest import added, read, shown
from ftharness.engine.job_settings import JobSettings
from ftharness.id_ranges import ids_in
from ftharness.logs import Scanner, load_contract
from ftharness.logs.scanner import Match

SMALL = ["--items", "60", "--batch", "10", "--checkpoint-every", "20", "--batch-ms", "30"]


@contextmanager
def job(data: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A job that runs; what is left of it at the end is killed."""
    argv = [sys.executable, "-m", "ftharness.engine.job", "inference", "--name", "job-1", "--data", str(data)]
    with subprocess.Popen([*argv, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            yield process
        finally:
            process.kill()


def said(log: bytes) -> list[Match]:
    """What the lines of a log mean; each of the job's own means one event."""
    scanner = Scanner(load_contract("job", "1"))
    found = [*scanner.feed(log, 0), *scanner.end(0)]
    assert sum(match.line.startswith("[job] ") for match in found) == log.count(b"[job] "), log.decode()
    return found


def events(log: bytes, *names: str) -> list[dict[str, str]]:
    return [match.captures for match in said(log) if match.event in names]


def struck(data: Path, word: bytes, number: signal.Signals) -> tuple[bytes, int]:
    """What a job says that gets a signal once it has said this, and how it ends."""
    with job(data, *SMALL) as process:
        assert process.stdout is not None
        log = b""
        for line in process.stdout:
            log += line
            if word in line:
                process.send_signal(number)
                break
        log += process.stdout.read()
        return log, process.wait(30)


def test_a_job_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    """SIGKILL behind the first checkpoint, SIGTERM later on, and then the end: the results are those of one that was not hit."""
    first, status = struck(tmp_path, b"checkpoint_committed rank=0 checkpoint=0", signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert said(first)[0].event == "job_started"
    second, status = struck(tmp_path, b"batch_started rank=0 attempt=1 batch=4", signal.SIGTERM)
    assert status == 128 + signal.SIGTERM
    assert events(second, "job_resumed")[0]["recovered"].startswith("0-")
    kept = {name for one in events(first + second, "checkpoint_committed") for name in ids_in(one["ids"])}
    assert kept >= {str(item) for item in range(40)}, "what SIGTERM found computed was written"
    with job(tmp_path, *SMALL) as process:
        third, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    (resumed,) = events(third, "job_resumed")
    assert kept <= set(ids_in(resumed["recovered"]))
    again = {name for one in events(third, "batch_started") for name in ids_in(one["ids"])}
    assert not again & set(ids_in(resumed["recovered"]))
    with job(tmp_path / "calm", *SMALL, "--ranks", "1") as process:
        calm, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert events(third, "job_finished") == events(calm, "job_finished"), "nor does it matter who started it"
    assert [one["decision"] for one in events(calm, "attempt_ended")] == ["done"]
    digests = [read(one["digest"]) for one in events(calm, "result")]
    assert shown(added(*digests)) == events(calm, "job_finished")[0]["digest"]


def test_a_job_that_cannot_keep_anything_fails(tmp_path: Path) -> None:
    """It says why, and ends with 1; before anything was read it had said that it began."""
    (tmp_path / "file").write_bytes(b"")
    with job(tmp_path / "file") as process:
        log, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert [match.event for match in said(log)] == ["job_started", "job_failed"]
    assert os.strerror(20) in events(log, "job_failed")[0]["error"]


@pytest.mark.parametrize("arguments", [["--items", "0"], ["--ranks", "-1"], ["--bug", "none-such"]])
def test_what_cannot_be_meant_is_refused(tmp_path: Path, arguments: list[str]) -> None:
    """With the status of a call that is wrong, and nothing done."""
    with job(tmp_path / "data", *arguments) as process:
        log, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert arguments[0].encode() in log
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("ranks", [0, 1, 3, 7])
def test_every_item_is_in_one_batch(ranks: int) -> None:
    """However many share them."""
    settings = JobSettings(name="job-1", data=Path(), items=100, batch=7, ranks=ranks)
    batches = [batch for rank in range(settings.shards) for batch in settings.batches(rank)]
    assert sorted(item for batch in batches for item in batch) == list(range(100))
    assert max(map(len, batches)) == 7
