"""Ids in few words, and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftharness.id_ranges import ids_in, ranges


def test_runs_are_told_by_their_ends() -> None:
    """In the order of the numbers; what is no number stands behind."""
    assert ranges(["3", "1", "2", "9", "batch_4_LOST"]) == "1-3,9,batch_4_LOST"
    assert ranges([]) == ""
    assert ids_in("1-3,9,batch_4_LOST") == ["1", "2", "3", "9", "batch_4_LOST"]


def test_a_range_that_nobody_tells() -> None:
    """As an altered history might: it must not take all memory."""
    with pytest.raises(ValueError, match="more ids than anybody tells so"):
        ids_in("0-9,10-99999999999")


@given(st.sets(st.integers(min_value=0, max_value=300)))
def test_nothing_is_lost(numbers: set[int]) -> None:
    """Whatever the gaps."""
    assert ids_in(ranges(map(str, numbers))) == [str(number) for number in sorted(numbers)]
