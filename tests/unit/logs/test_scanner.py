"""The scan finds the same events whatever way the bytes were split, and in whatever wrapping a logger puts them."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftharness.logs import Match, Scanner, load_contract
from ftharness.logs import scanner as scanner_module
from ftharness.logs.contract import SHIPPED, read_contract

SIM = load_contract("sim", "0.1.0")
RECEIVED = b"2026-01-31T12:00:00Z DEBUG handlers.generate: New Request ID: req-1"
MIGRATING = b"WARN migration: Stream disconnected... recreating stream... request_id=req-1 error=Disconnected: gone"


def scanned(data: bytes, cuts: list[int]) -> list[tuple[str, dict[str, str], str]]:
    scanner = Scanner(SIM)
    ends = sorted({cut % (len(data) + 1) for cut in cuts})
    found: list[Match] = []
    for a, b in zip([0, *ends], [*ends, len(data)], strict=True):
        found += scanner.feed(data[a:b], 0)
    found += scanner.end(0)
    return [(match.event, match.captures, match.line) for match in found]


lines = st.one_of(
    st.sampled_from(
        [RECEIVED, MIGRATING, b"\x1b[32m" + RECEIVED + b"\x1b[0m", b"12%\r" + RECEIVED + b"\r", b"New Request ID: "]
    ),
    st.binary(max_size=60),
)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(lines, max_size=8), st.sampled_from([b"\n", b"\r\n", b"\n\n"]), st.lists(st.integers(0, 2000), max_size=10)
)
def test_any_split_of_any_bytes_gives_the_same_events(parts: list[bytes], end: bytes, cuts: list[int]) -> None:
    """Partial lines and lines split across reads are never missed and never seen twice."""
    data = end.join(parts)
    assert scanned(data, cuts) == scanned(data, [])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from([b"x" * 90, RECEIVED, b"\n", b"y" * 300, b"\n" + RECEIVED + b"\n"]), max_size=20),
    st.data(),
)
def test_lines_longer_than_the_bound_are_cut_alike(parts: list[bytes], data: st.DataObject) -> None:
    """With a bound of 256 bytes instead of 16 MiB: what is found depends on the bytes, not on the reads."""
    joined = b"".join(parts)
    cuts = data.draw(st.lists(st.integers(0, len(joined)), max_size=8))
    bound, scanner_module.LONGEST = scanner_module.LONGEST, 256
    try:
        assert scanned(joined, cuts) == scanned(joined, [])
    finally:
        scanner_module.LONGEST = bound


def test_every_line_that_hits_is_found_once() -> None:
    """Two thousand events among noise: each one, in order."""
    data = b"".join(b"noise\nNew Request ID: r%d\nmore noise New\n" % index for index in range(2000))
    assert [captures["request"] for _, captures, _ in scanned(data, [])] == [f"r{index}" for index in range(2000)]


def test_a_line_of_10_mb_and_undecodable_bytes_are_survived() -> None:
    """The event in it is found, and what is stored of it is short."""
    long = b"\xff\xfe" * 5_000_000 + b" New Request ID: deep-inside \x80"
    ((event, captures, line),) = scanned(long + b"\n", list(range(0, len(long), 65_536)))
    assert (event, captures) == ("request_received", {"request": "deep-inside"})
    assert len(line) <= 4096


def test_a_json_line_means_what_its_plain_form_means() -> None:
    """The message and the fields of a JSON log are the line that the same logger writes as text."""
    entry = {
        "time": "2026-01-31T12:00:00Z",
        "level": "WARN",
        "target": "migration",
        "message": "Stream disconnected... recreating stream...",
        "request_id": "req-1",
        "error": "Disconnected: gone",
    }
    ((event, captures, line),) = scanned(json.dumps(entry).encode() + b"\n", [])
    assert event == "migration_started"
    assert captures == {"request": "req-1", "error": "Disconnected: gone"}
    assert line.startswith("2026-01-31T12:00:00Z WARN migration: Stream disconnected")


def test_colours_are_stripped_before_a_line_is_matched() -> None:
    """Escapes between the words of a line do not hide what it says."""
    line = b"\x1b[33mWARN\x1b[0m Stream disconnected... recreating stream... \x1b[3mrequest_id\x1b[0m=r9 error=x\n"
    ((event, captures, text),) = scanned(line, [])
    assert (event, captures["request"]) == ("migration_started", "r9")
    assert "\x1b" not in text


def test_a_literal_alone_is_no_event_where_the_pattern_says_more() -> None:
    """The literal finds the line, the regular expression decides."""
    assert scanned(b"nothing started pid=maybe\n", []) == []


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_contract_can_be_read(path: Path) -> None:
    """No file that ships is broken, and each event says what it means."""
    contract = read_contract(path, "1.4.2")
    assert contract.events
    assert all(event.meaning for event in contract.events.values())
