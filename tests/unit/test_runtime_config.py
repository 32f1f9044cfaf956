"""What a run is told: defaults, plain data and back, and what cannot be meant."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftharness.coordinator import RuntimeConfig


def test_defaults() -> None:
    """The established ones."""
    assert RuntimeConfig().to_dict() == {
        "enable_checkpointing": True,
        "checkpoint_dir": None,
        "force_restart": False,
        "checkpoint_seq_threshold": 10000,
        "checkpoint_time_threshold": 300.0,
        "timeout_per_attempt": 3600.0,
        "max_retries_transient": 3,
        "max_retries_poison": 2,
        "spot_retry_poll_interval": 60.0,
        "enable_elastic_redistribution": True,
    }


@given(
    st.builds(
        RuntimeConfig,
        enable_checkpointing=st.booleans(),
        checkpoint_dir=st.none() | st.sampled_from([Path("/a/b"), Path("c")]),
        force_restart=st.booleans(),
        checkpoint_seq_threshold=st.integers(1, 10**9),
        checkpoint_time_threshold=st.floats(1e-3, 1e6),
        timeout_per_attempt=st.none() | st.floats(1e-3, 1e6),
        max_retries_transient=st.integers(0, 100),
        max_retries_poison=st.integers(0, 100),
        spot_retry_poll_interval=st.floats(1e-3, 1e6),
        enable_elastic_redistribution=st.booleans(),
    )
)
def test_through_json_and_back(config: RuntimeConfig) -> None:
    """All of it comes back, the path as a path."""
    assert RuntimeConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_what_is_missing_or_unknown() -> None:
    """What is missing has its default; what a later release wrote is passed over."""
    assert RuntimeConfig.from_dict({}) == RuntimeConfig()
    assert RuntimeConfig.from_dict({"max_retries_poison": 5, "of_a_later_release": 1}) == RuntimeConfig(
        max_retries_poison=5
    )


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"max_retries_transient": -1}, "max_retries_transient must be non-negative"),
        ({"max_retries_transient": 1.5}, "max_retries_transient must be non-negative, a whole number"),
        ({"max_retries_poison": -5}, "max_retries_poison must be non-negative"),
        ({"checkpoint_time_threshold": 0}, "checkpoint_time_threshold must be positive"),
        ({"checkpoint_time_threshold": float("nan")}, "checkpoint_time_threshold must be positive"),
        ({"checkpoint_seq_threshold": -1}, "checkpoint_seq_threshold must be positive"),
        ({"spot_retry_poll_interval": 0}, "spot_retry_poll_interval must be positive"),
        ({"spot_retry_poll_interval": float("inf")}, "spot_retry_poll_interval must be positive"),
        ({"timeout_per_attempt": 0}, "timeout_per_attempt must be positive or None"),
        ({"timeout_per_attempt": -100}, "timeout_per_attempt must be positive or None"),
    ],
)
def test_what_cannot_be_meant(wrong: dict[str, Any], words: str) -> None:
    """It is refused, by its name."""
    with pytest.raises(ValueError, match=words):
        RuntimeConfig(**wrong)
