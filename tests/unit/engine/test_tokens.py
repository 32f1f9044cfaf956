"""The vocabulary and the chain: exact both ways, and any change of the context changes everything after it."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ftharness.engine import tokens

ids = st.lists(st.integers(0, tokens.WORDS - 1), max_size=40)


def test_every_word_is_different_and_the_vocabulary_is_whole() -> None:
    """8,192 words, none twice, none with a blank inside."""
    assert len(set(tokens.VOCABULARY)) == tokens.WORDS
    assert all(word.startswith(" ") and word[1:].isalpha() for word in tokens.VOCABULARY)


@given(ids)
def test_a_text_says_which_tokens_it_was_made_of(made: list[int]) -> None:
    """However many tokens one chunk merged."""
    assert tokens.ids_of(tokens.decode(made)) == made


@given(st.text(max_size=60))
def test_any_prompt_comes_back(text: str) -> None:
    """A prompt is its bytes."""
    clean = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    assert tokens.decode(tokens.encode(clean)) == clean


@given(st.integers(0, 1 << 40), ids, st.integers(1, 30), st.integers(0, 30))
def test_a_worker_that_gets_the_context_goes_on_exactly(seed: int, prompt: list[int], count: int, at: int) -> None:
    """Cut anywhere, the second half follows from prompt and first half."""
    whole = tokens.generate(seed, prompt, count)
    at = min(at, count)
    assert whole[:at] + tokens.generate(seed, prompt + whole[:at], count - at) == whole


@settings(max_examples=200)
@given(st.integers(0, 1000), st.lists(st.integers(0, 8191), min_size=1, max_size=20), st.data())
def test_an_altered_context_gives_another_answer(seed: int, prompt: list[int], data: st.DataObject) -> None:
    """One id changed, lost or doubled: the next eight tokens are not the same."""
    place = data.draw(st.integers(0, len(prompt) - 1))
    right = tokens.generate(seed, prompt, 8)
    altered = [*prompt[:place], prompt[place] ^ 1, *prompt[place + 1 :]]
    lost = prompt[:place] + prompt[place + 1 :]
    doubled = prompt[: place + 1] + prompt[place:]
    assert right not in [tokens.generate(seed, other, 8) for other in (altered, lost, doubled)]


def test_a_text_that_is_not_ours_is_told() -> None:
    """Another model's words are no tokens."""
    assert tokens.ids_of("Hello world") is None
    assert tokens.ids_of(" baba xyz") is None
