"""A search that finds one literal may step over another one that shares bytes with it: no event is lost by that."""

from hypothesis import given
from hypothesis import strategies as st

from ftharness.logs import Contract, Scanner
from ftharness.logs.contract import EventSpec, Pattern

literals = st.lists(st.text("ab ", min_size=1, max_size=4), min_size=1, max_size=6, unique=True)


@given(literals, st.text("abc \r\n", max_size=40))
def test_a_line_means_every_event_whose_literal_it_holds(words: list[str], text: str) -> None:
    """Literals of three letters, in each other, over each other's ends and side by side: all are found, in order."""
    events = {f"e{i}": EventSpec(f"e{i}", "", [Pattern(word)]) for i, word in enumerate(words)}
    scanner = Scanner(Contract(backend="x", version="", known=True, events=events, metrics=(), files=()))
    found = [match.event for match in (*scanner.feed(text.encode(), 0), *scanner.end(0))]
    parts = [part for line in text.split("\n") for part in line.split("\r")]
    assert found == [f"e{i}" for part in parts for i, word in enumerate(words) if word in part]
