"""Text of other programs, made safe to look at.

What a log says may hold terminal escapes, NUL bytes, characters that turn the reading direction, or ten million letters.
Here it becomes text that shows itself and nothing more. Markup is not escaped here: that is each format's own business,
done where it is written (Jinja's autoescape, :mod:`xml.etree`, :mod:`html`).
"""

import re

# CSI, OSC and string sequences only when they end: an unfinished one must not swallow the evidence behind it.
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x9b[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)"
    r"|\x1b[ -/]*[0-OQ-WYZ\\`-~]"
)
_DIRECTION = (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_SHOWN = (
    {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"}
    | {0x7F: "\u2421"}
    | dict.fromkeys(range(0x80, 0xA0), "\ufffd")
    | {code: f"\u27e8U+{code:04X}\u27e9" for code in _DIRECTION}
)
_SURROGATES = re.compile("[\ud800-\udfff]")
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def plain(text: str, limit: int = 2_000) -> str:
    """``text`` without terminal escapes; other control characters and turns of direction are shown as themselves.

    Args:
        text: Anything.
        limit: Characters; what is cut off is counted at the end.
    """
    # Cut before the work, with room for escapes that go away: a line may be 10 MB long.
    head = text[: limit * 4]
    head = _ESCAPES.sub("", head)
    head = _SURROGATES.sub("\ufffd", head.translate(_SHOWN))
    if len(head) <= limit and len(text) <= limit * 4:
        return head
    return f"{head[:limit]}… ({len(text) - limit:,} more characters)"


def one_line(text: str, limit: int = 160) -> str:
    """``text`` as :func:`plain` makes it, on one line, cut to ``limit`` characters with an ellipsis."""
    line = " ".join(plain(text, limit * 2).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def xml_text(text: str) -> str:
    """``text`` with only such characters as XML 1.0 can hold; it has no way to write the others, not even escaped."""
    return _NOT_XML.sub("", _ESCAPES.sub("", text))


def middle(text: str, limit: int) -> str:
    """``text`` in at most ``limit`` characters, keeping its start and its end: how long names stay recognizable."""
    text = one_line(text, 400)
    if len(text) <= limit:
        return text
    tail = (limit - 1) // 2
    return f"{text[: limit - 1 - tail]}…{text[-tail:]}"
