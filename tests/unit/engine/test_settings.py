"""What an engine is told is what it is told, over two command lines."""

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftharness.engine.bugs import BUGS
from ftharness.engine.settings import ENGINES, EngineSettings, add_engine_arguments, settings_of


def parse(argv: list[str]) -> EngineSettings:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_engine_arguments(parser)
    return settings_of(parser.parse_args(argv))


@given(
    st.builds(
        EngineSettings,
        engine=st.sampled_from(ENGINES),
        speed=st.floats(1e-3, 1e9),
        slots=st.integers(1, 10_000),
        prefill_tokens_per_s=st.floats(1e-3, 1e9),
        kv_tokens_per_s=st.floats(1e-3, 1e9),
        bug=st.sampled_from(["", *BUGS]),
    )
)
def test_settings_come_out_as_they_went_in(settings: EngineSettings) -> None:
    """From the worker to its engine child, to the last digit."""
    assert parse(settings.argv()) == settings


@pytest.mark.parametrize("speed", ["0", "-1", "nan", "fast"])
def test_a_speed_is_above_zero(speed: str) -> None:
    """Of zero no schedule can be made."""
    with pytest.raises(argparse.ArgumentError, match="--speed"):
        parse(["--speed", speed])
