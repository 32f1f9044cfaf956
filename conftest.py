"""What this project's own tests share: the field's markers, and properties that hold on a busy machine, too."""

import pytest

try:
    from hypothesis import settings
except ModuleNotFoundError:
    pytest.exit("the project's own tests need its extra: pip install -e '.[dev]'", returncode=4)

# An example that takes long on a busy machine is no counter-example.
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")

MARKERS = {
    "vllm": "a vLLM worker, real or simulated",
    "sglang": "an SGLang worker, real or simulated",
    "trtllm": "a TensorRT-LLM worker, real or simulated",
    "gpu_0": "needs no GPU",
    "gpu_1": "needs one GPU when it runs on a real engine",
    "gpu_2": "needs two GPUs when it runs on a real engine",
    "pre_merge": "gates every commit",
    "post_merge": "runs after a merge",
    "nightly": "runs at night, on GPUs",
}

pytest_plugins = ["pytester"]


def pytest_configure(config: pytest.Config) -> None:
    """Make the markers known."""
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
