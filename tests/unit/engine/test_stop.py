"""Stop strings in a stream: what is sent never has to be taken back, and nothing is lost."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ftharness.engine.frontend_stop import StopFilter

texts = st.text("ab ", max_size=30)
stops = st.lists(st.text("ab ", min_size=1, max_size=4), min_size=1, max_size=3)


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    ends = sorted({cut % (len(text) + 1) for cut in cuts} | {0, len(text)})
    return [text[a:b] for a, b in pairwise(ends)]


def through(filter_: StopFilter, pieces: list[str]) -> tuple[str, bool, list[str]]:
    """What came out until a stop string did, whether one did, and each piece."""
    out = []
    for piece in pieces:
        certain, found = filter_.feed(piece)
        out.append(certain)
        if found:
            return "".join(out), True, out
    out.append(filter_.end())
    return "".join(out), False, out


@given(texts, stops, st.lists(st.integers(0, 99), max_size=9))
def test_no_stop_string_comes_out_and_nothing_else_is_lost(text: str, stops: list[str], cuts: list[int]) -> None:
    """Whichever way the text is cut into pieces."""
    came, found, _ = through(StopFilter(stops), pieces_of(text, cuts))
    assert found == any(stop in text for stop in stops)
    assert not any(stop in came for stop in stops)
    assert text.startswith(came)
    if found:
        assert any(text[len(came) :].startswith(stop) for stop in stops)
    else:
        assert came == text


@given(texts, st.text("ab ", min_size=1, max_size=4), st.lists(st.integers(0, 99), max_size=9))
def test_one_stop_string_cuts_where_it_first_stands(text: str, stop: str, cuts: list[int]) -> None:
    """As it would in the whole text."""
    came, _, _ = through(StopFilter([stop]), pieces_of(text, cuts))
    assert came == text.partition(stop)[0]


@given(texts, stops)
def test_no_more_is_held_back_than_may_become_one(text: str, stops: list[str]) -> None:
    """Piece by piece: what is missing is the begin of a stop string."""
    one, came = StopFilter(stops), ""
    for place, letter in enumerate(text, 1):
        certain, found = one.feed(letter)
        came += certain
        if found:
            return
        held = text[len(came) : place]
        assert held == "" or any(stop.startswith(held) for stop in stops)


def test_what_was_held_comes_once() -> None:
    """At the end, and then no more."""
    one = StopFilter(["abc"])
    assert one.feed("xab") == ("x", False)
    assert (one.end(), one.end()) == ("ab", "")
