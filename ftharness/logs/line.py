"""A raw log line as its reader means it: without escapes, and a JSON line as the plain line that it stands for."""

import re

import msgspec

# CSI sequences (colours, cursor) and OSC sequences (titles, links).
_ESCAPES = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_]")
_OBJECT = re.compile(rb"\s*\{")
_OWN = ("time", "timestamp", "ts", "level", "target", "logger", "message", "msg")


def unwrap(line: bytes) -> bytes:
    """The text of one line.

    A JSON line, as Dynamo writes with ``DYN_LOGGING_JSONL=1``, becomes ``TIME LEVEL TARGET: MESSAGE key=value …``.
    """
    if b"\x1b" in line:
        line = _ESCAPES.sub(b"", line)
    if _OBJECT.match(line):
        try:
            entry = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return line
        if isinstance(entry, dict):
            return _plain(entry).encode("utf-8", "surrogatepass")
    return line


def _plain(entry: dict[str, object]) -> str:
    fields = entry.pop("fields", None)
    if isinstance(fields, dict):  # the nested form of the same logger
        entry = {**entry, **fields}

    rest = " ".join([f"{key}={value}" for key, value in entry.items() if key not in _OWN])
    head = (
        f"{_first(entry, 'time', 'timestamp', 'ts')} {_first(entry, 'level')} {_first(entry, 'target', 'logger')}: "
        f"{_first(entry, 'message', 'msg')}"
    )
    return f"{head} {rest}" if rest else head


def _first(entry: dict[str, object], *names: str) -> str:
    for name in names:
        if name in entry:
            return str(entry[name])
    return ""
