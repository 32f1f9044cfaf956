"""The history keeps what it is given, in order, live and on disk."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftharness.history import (
    Event,
    FaultLanded,
    History,
    HistoryError,
    Log,
    ProcessExited,
    RequestChunk,
    RequestFinished,
    json_schema,
    read_history,
)

SCHEMA = jsonschema.Draft202012Validator(json_schema())

text = st.text(st.characters(exclude_categories=["Cs"]))
count = st.integers(0, 2**62)
events = st.one_of(
    st.builds(Log, source=text, event=text, captures=st.dictionaries(text, text), line=text),
    st.builds(RequestChunk, source=text, request=text, first=count, tokens=count, text=text),
    st.builds(ProcessExited, source=text, pid=count, returncode=st.none() | st.integers(0, 255)),
    st.builds(
        FaultLanded, id=text, evidence=st.dictionaries(text, text | st.integers(-(2**62), 2**62) | st.booleans())
    ),
    st.builds(RequestFinished, request=text, outcome=text, usage=st.none() | st.dictionaries(text, count), error=text),
)


@given(st.lists(events))
def test_any_history_written_is_read_back_equal(tmp_path_factory: pytest.TempPathFactory, written: list[Event]) -> None:
    """What was appended, whatever text it holds, is what the file gives back, numbered from 1."""
    path = tmp_path_factory.mktemp("run") / "history.jsonl"
    with History(path) as history:
        for event in written:
            history.append(event)
    read = read_history(path)
    assert read == written == list(history.events)
    assert [event.n for event in read] == list(range(1, len(written) + 1))


@given(events)
def test_every_line_validates_against_the_shipped_schema(event: Event) -> None:
    """The schema describes the format as it is written."""
    SCHEMA.validate(msgspec.json.decode(msgspec.json.encode(event)))


def test_the_schema_rejects_what_is_not_an_event() -> None:
    """The schema can fail: an unknown kind is not an event."""
    with pytest.raises(jsonschema.ValidationError):
        SCHEMA.validate({"kind": "no.such.kind", "n": 1, "t": 1})


def test_an_event_is_stamped_when_its_bytes_were_read() -> None:
    """``at`` is on CLOCK_MONOTONIC; ``t`` counts from the run's start."""
    history = History(start_ns=1_000)
    assert history.append(Log(event="x"), at=1_500).t == 500


def test_subscribers_hear_an_event_before_append_returns_and_not_after_they_left() -> None:
    """A trigger acts at the very moment of its event."""
    history, heard = History(), []
    leave = history.subscribe(heard.append)
    first = history.append(Log(event="a"))
    assert heard == [first]
    leave()
    leave()
    history.append(Log(event="b"))
    assert heard == [first]


def test_select_finds_by_kind_and_fields() -> None:
    """Only the events of that kind with those values, in order."""
    history = History()
    for source in ("w1", "w2", "w1"):
        history.append(Log(source=source, event="x"))
    history.append(ProcessExited(source="w1", pid=1, returncode=0))
    assert [event.n for event in history.select(Log, source="w1")] == [1, 3]


async def test_wait_for_sees_the_past_and_the_future() -> None:
    """An event that came before the wait counts as one that comes after it."""
    history = History()
    history.append(Log(event="old"))
    old = await history.wait_for(lambda e: isinstance(e, Log) and e.event == "old", deadline_s=5)
    assert old.n == 1
    asyncio.get_running_loop().call_soon(history.append, Log(event="new"))
    new = await history.wait_for(lambda e: isinstance(e, Log) and e.event == "new", deadline_s=5)
    assert new.n == 2


async def test_wait_for_says_what_did_not_come() -> None:
    """The error names what was waited for and what was seen last, and leaves no subscriber behind."""
    history = History()
    history.append(Log(event="last seen"))
    with pytest.raises(TimeoutError, match=r"0\.01 s for the thaw; the last event was .*last seen"):
        await history.wait_for(lambda _: False, deadline_s=0.01, what="the thaw")
    assert not history._subscribers


def test_a_damaged_line_is_named_by_file_and_line(tmp_path: Path) -> None:
    """A reader learns where to look."""
    path = tmp_path / "history.jsonl"
    path.write_text('{"kind":"log","event":"x"}\n{"kind":"log"}\n')
    with pytest.raises(HistoryError, match=r"history\.jsonl:2: .*event"):
        read_history(path)


def test_a_full_disk_does_not_stop_the_run() -> None:
    """Writing fails, appending goes on, and the first error is kept."""
    history = History(Path("/dev/full"))
    history.append(Log(event="x"))
    history.append(Log(event="y"))
    assert history.write_error is not None
    assert len(history.events) == 2
    history.close()


WRITER = """
import sys
from pathlib import Path
from ftharness.history import History, Log
history = History(Path(sys.argv[1]))
while True:
    history.append(Log(event="x", line="y" * 1000))
    print(len(history.events), flush=True)
"""


def test_what_a_killed_harness_had_appended_is_readable(tmp_path: Path) -> None:
    """After SIGKILL the file holds every acknowledged event, and reads without an error."""
    path = tmp_path / "history.jsonl"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        seen = [int(writer.stdout.readline()) for _ in range(50)][-1]
        os.kill(writer.pid, signal.SIGKILL)
    assert writer.returncode == -signal.SIGKILL
    assert len(read_history(path)) >= seen


LIMITED = """
import resource, signal, sys
from pathlib import Path
from ftharness.history import History, Log
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
history = History(Path(sys.argv[1]))
for _ in range(50):
    history.append(Log(event="x"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000 if history.write_error is None else 9000, resource.RLIM_INFINITY))
assert history.write_error is not None
"""


def test_a_disk_that_fills_and_empties_leaves_a_readable_file(tmp_path: Path) -> None:
    """What fits is kept, the line that was cut is the last one, even where there is room again later."""
    path = tmp_path / "history.jsonl"
    subprocess.run([sys.executable, "-c", LIMITED, str(path)], check=True, timeout=60)
    assert path.stat().st_size == 1000
    assert 10 < len(read_history(path)) < 50


def test_a_last_line_cut_short_is_passed_over(tmp_path: Path) -> None:
    """A line without its newline was never acknowledged."""
    path = tmp_path / "history.jsonl"
    path.write_text('{"kind":"log","event":"x","n":1}\n{"kind":"log","eve')
    assert [event.n for event in read_history(path)] == [1]
