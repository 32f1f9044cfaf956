"""What a run stores holds no secrets, however a program's output is split."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ftharness.process.redact import RedactedStream, Redactor

SECRETS = {
    "HF_TOKEN": "tell-nobody",
    "OPENAI_API_KEY": "swordfish and chips",
    "KEY": "line-one\nline-two",
    "PORT": "8000",
}
redactor = Redactor(SECRETS)

pieces = st.lists(
    st.one_of(
        st.sampled_from(
            [b"tell-nobody", b"swordfish and chips", b"hf_" + b"Ab1" * 10, b"Bearer abcdefghij", b"\n", b" ", b"x"]
        ),
        st.sampled_from([b"y" * 61_430, b"z" * 65_536, b"w " * 40_000, b"line-one\nline-two", b"8000"]),
        st.binary(max_size=40),
    ),
    max_size=12,
)


def streamed(data: bytes, cuts: list[int]) -> bytes:
    stream = RedactedStream(redactor)
    ends = sorted({cut % (len(data) + 1) for cut in cuts})
    parts = [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]
    return b"".join(stream.feed(part) for part in parts) + stream.end()


@settings(deadline=None, max_examples=150)
@given(pieces, st.lists(st.integers(0, 400_000), max_size=8))
def test_any_split_of_any_bytes_is_redacted_alike(parts: list[bytes], cuts: list[int]) -> None:
    """How the kernel cut the output decides nothing: not what is masked, not what is kept."""
    data = b"".join(parts)
    assert streamed(data, cuts) == streamed(data, [])


@settings(deadline=None, max_examples=80)
@given(pieces, st.lists(st.integers(0, 400_000), max_size=8))
def test_no_known_secret_is_left(parts: list[bytes], cuts: list[int]) -> None:
    """Neither whole, nor where a line is so long that it is cut."""
    out = streamed(b"".join(parts), cuts)
    for secret in (b"tell-nobody", b"swordfish and chips", b"line-two"):
        assert secret not in out


def test_what_is_no_secret_is_kept_as_it_is() -> None:
    """Numbers, short values and look-alike names are not masked."""
    text = "port 8000 --max-tokens 4096 tokenizer hf_short key=value monkey"
    assert Redactor({"TOKENIZERS_PARALLELISM": "false-value", "A_KEY": "8000"}).text(text) == text


def test_arguments_are_masked_by_the_options_name() -> None:
    """Both spellings of an option, and the value wherever else it stands."""
    argv = ["serve", "--api-key", "k-123456", "--hf-token=t-654321", "--note", "k-123456!"]
    assert Redactor({}).argv(argv) == ["serve", "--api-key", "***", "--hf-token=***", "--note", "***!"]
