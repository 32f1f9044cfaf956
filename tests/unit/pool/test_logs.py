"""The manager's log: what a line has, what it never has, and that nobody ever waits for it."""

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ftharness.pool.correlation import correlation_id
from ftharness.pool.log_events import EVENTS, POOL_FIELDS, Silent
from ftharness.pool.log_sink import LONGEST, LineSink
from ftharness.pool.logs import LibraryLog, PoolLog
from ftharness.process import Redactor

KNOWN = {
    "engine": "vllm",
    "engine_version": "0.32.0",
    "device_mask": ["GPU-1", "GPU-2"],
    "model_id": "m",
    "restart_count": 3,
    "backoff_ms": 4000,
    "last_error": "it ended with status 0",
}
HIDDEN = "hunter2-hunter2"


class Pipe:
    """A pipe that a log writes into."""

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe()
        os.set_blocking(self.read_fd, False)

    def lines(self) -> list[dict[str, Any]]:
        """What has come so far."""
        return [json.loads(line) for line in self.raw().splitlines()]

    def raw(self) -> bytes:
        data = b""
        while True:
            try:
                piece = os.read(self.read_fd, 1 << 20)
            except BlockingIOError:
                return data
            if not piece:
                return data
            data += piece


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    for fd in (made.read_fd, made.write_fd):
        if fd >= 0:
            os.close(fd)


def log_into(pipe: Pipe, **given: Any) -> PoolLog:
    return PoolLog(LineSink(pipe.write_fd), redactor=Redactor({"HF_TOKEN": HIDDEN}), **given)


def test_a_line_about_a_pool_says_all_that_is_known_of_it(pipe: Pipe) -> None:
    """All fields of the contract, whatever the event; the call's correlation id; null where nothing is known."""
    log = log_into(pipe, known=lambda *_: KNOWN)
    token = correlation_id.set("abc-1")
    try:
        log.event("engine_lost", pool_id="a", engine_id="a-1", exit="signal 9", reason="it was killed")
    finally:
        correlation_id.reset(token)
    log_into(pipe).event("drain_begun", pool_id="b", deadline_ms=5, on_timeout="stop")
    whole, bare = pipe.lines()
    timestamp = whole.pop("timestamp")
    assert timestamp.endswith("Z")
    assert whole == {
        "event": "engine_lost",
        "level": "error",
        "pool_id": "a",
        "engine_id": "a-1",
        "exit": "signal 9",
        "reason": "it was killed",
        "correlation_id": "abc-1",
        **KNOWN,
    }
    assert set(POOL_FIELDS) <= set(bare)
    assert bare["engine_version"] is None


def test_secrets_are_in_no_line(pipe: Pipe) -> None:
    """By the name that they have in an environment, or by their shape; in texts, lists and tables alike."""
    log = log_into(pipe, known=lambda *_: {"last_error": f"refused: {HIDDEN}"})
    shaped = "hf_" + "A" * 30
    log.event("advisory", pool_id="a", reason=f'told "{shaped}"', argv=["--key", HIDDEN], env={"T": HIDDEN})
    raw = pipe.raw()
    assert HIDDEN.encode() not in raw
    assert shaped.encode() not in raw
    assert json.loads(raw)["last_error"] == "refused: ***"


def test_a_secret_with_a_quote_in_it_is_found_too(pipe: Pipe) -> None:
    """It is looked for before JSON writes it in another way."""
    hidden = 'with"quote\\and-more'
    log = PoolLog(LineSink(pipe.write_fd), redactor=Redactor({"API_KEY": hidden}))
    log.event("advisory", reason=hidden)
    assert pipe.lines()[0]["reason"] == "***"


def test_levels_leave_out_what_is_below_them(pipe: Pipe) -> None:
    """An event has the level that the list gives it."""
    log = log_into(pipe, level="warning")
    log.event("breaker_closed", pool_id="a", reason="reset")
    log.event("breaker_half_open", pool_id="a")
    assert [line["event"] for line in pipe.lines()] == ["breaker_half_open"]


@pytest.mark.parametrize("log", [Silent(), None], ids=["silent", "json"])
def test_an_event_that_is_none_or_says_too_little_is_refused(pipe: Pipe, log: Silent | None) -> None:
    """Whoever misspells one is told, also where nobody reads the log: readers go by these names."""
    log = log or log_into(pipe)
    with pytest.raises(LookupError, match="no log event 'engine_died'"):
        log.event("engine_died")
    with pytest.raises(LookupError, match="always says exit"):
        log.event("engine_lost", reason="x")
    assert pipe.raw() == b""


def test_what_libraries_log_is_a_line_too(pipe: Pipe) -> None:
    """With its exception, and without secrets."""
    handler = LibraryLog(log_into(pipe))
    logger = logging.getLogger("tests.of.the.pool")
    logger.addHandler(handler)
    try:
        logger.warning("it went wrong", exc_info=ValueError(HIDDEN))
        logger.info("nobody needs this")
    finally:
        logger.removeHandler(handler)
    (line,) = pipe.lines()
    assert (line["event"], line["level"], line["logger"]) == ("message", "warning", "tests.of.the.pool")
    assert line["text"].startswith("it went wrong\nValueError: ***")
    assert HIDDEN not in line["text"]


def test_what_a_library_says_over_and_over_is_counted(pipe: Pipe) -> None:
    """A thousand times within a second is one line, and how often it came again stands in the next."""
    handler = LibraryLog(log_into(pipe))
    logger = logging.getLogger("tests.of.the.pool")
    logger.addHandler(handler)
    try:
        for _ in range(1000):
            logger.error("socket.accept() out of system resource")
        logger.error("something else")
        logger.error("something else again")
    finally:
        logger.removeHandler(handler)
    assert [line["text"] for line in pipe.lines()] == [
        "socket.accept() out of system resource",
        "socket.accept() out of system resource (999 times more)",
        "something else",
        "something else again",
    ]


def test_a_reader_that_has_stopped_holds_up_nobody(pipe: Pipe) -> None:
    """Far more than a pipe holds; the oldest lines come whole, what is lost is counted, and told when there is room again."""
    fcntl.fcntl(pipe.write_fd, fcntl.F_SETPIPE_SZ, 4096)
    sink = LineSink(pipe.write_fd, held_bytes=20_000)
    log = PoolLog(sink, redactor=Redactor({}))
    for n in range(500):
        log.event("advisory", reason=f"{n} " + "x" * 100)
    assert sink.dropped > 300
    lines = pipe.lines()
    while sink.flush():  # as much at a time as there is room for
        lines += pipe.lines()
    dropped = sink.dropped
    fcntl.fcntl(pipe.write_fd, fcntl.F_SETPIPE_SZ, 65_536)
    assert [int(line["reason"].split()[0]) for line in lines] == list(range(500 - dropped))
    log.event("breaker_half_open", pool_id="a")
    told, following = pipe.lines()
    assert told["reason"] == f"{dropped} lines of this log are lost"
    assert following["event"] == "breaker_half_open"


def test_what_was_held_back_is_written_at_the_end(pipe: Pipe) -> None:
    """As far as its reader takes it in time: one that lags gets all of it, one that has stopped delays the end and no more."""
    fcntl.fcntl(pipe.write_fd, fcntl.F_SETPIPE_SZ, 4096)
    sink = LineSink(pipe.write_fd)
    for n in range(1000):
        sink.write(f"{n:0100}".encode())
    sink.finish(0.05)
    os.set_blocking(pipe.read_fd, True)
    with open(pipe.read_fd, "rb", closefd=False) as reader, ThreadPoolExecutor(1) as other:
        lines = other.submit(lambda: [int(line) for line in reader])
        sink.finish(30)
        os.close(pipe.write_fd)
        pipe.write_fd = -1
        assert lines.result(30) == list(range(1000))
    assert sink.dropped == 0


def test_a_reader_that_is_gone_ends_nobody(pipe: Pipe) -> None:
    """A broken pipe is a lost line."""
    os.close(pipe.read_fd)
    pipe.read_fd = -1
    sink = LineSink(pipe.write_fd)
    PoolLog(sink, redactor=Redactor({})).event("advisory", reason="nobody reads this")
    assert sink.dropped == 1


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=6000) | st.binary(),
    lambda inner: st.lists(inner, max_size=200) | st.dictionaries(st.text(max_size=20), inner, max_size=20),
    max_leaves=40,
)


@example(["x" * 2000] * 20, "é" * 3000)  # short enough once each text is clipped
@example({f"field {n}": "x" for n in range(5000)}, "y")  # never short enough
@given(VALUES, st.text(st.characters(), max_size=3000))
def test_a_line_is_one_line_of_json_and_bounded_whatever_it_is_given(value: Any, text: str) -> None:
    """Also with lone surrogates, numbers that are none, line ends, and far too much."""
    pipe = Pipe()
    try:
        log = PoolLog(LineSink(pipe.write_fd), redactor=Redactor({}))
        log.event("advisory", reason=text, more=value, pool_id="a")
        raw = pipe.raw()
    finally:
        os.close(pipe.read_fd)
        os.close(pipe.write_fd)
    assert len(raw) <= LONGEST
    assert raw.count(b"\n") == 1
    assert json.loads(raw)["event"] == "advisory"


def test_every_event_has_a_level_and_a_sentence() -> None:
    """Which docs/pool.md shows."""
    for name, event in EVENTS.items():
        assert event.level in {"debug", "info", "warning", "error"}, name
        assert event.sentence.endswith("."), name
