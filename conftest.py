"""What this project's own tests share: the field's markers, and properties that hold on a busy machine, too."""

import functools

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
    "gpu_1": "needs one GPU, and is skipped where there is none",
    "gpu_2": "needs two GPUs, and is skipped where there are fewer",
    "pre_merge": "gates every commit",
    "post_merge": "runs after a merge",
    "nightly": "runs at night, on GPUs, and is skipped where there is none",
}

pytest_plugins = ["pytester"]


def pytest_configure(config: pytest.Config) -> None:
    """Make the markers known."""
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs GPUs where there are not so many, with the reason: no driver, no GPU, a mask that hides them."""
    marked = {mark.name for mark in item.iter_markers()}
    needed = 2 if "gpu_2" in marked else 1 if marked & {"gpu_1", "nightly"} else 0
    if needed and (missing := _missing(needed)):
        pytest.skip(f"not applicable: {missing} (docs/nightly-gpu.md)")


@functools.cache
def _missing(count: int) -> str:
    """Why there are not ``count`` GPUs; "" where there are."""
    from ftharness.gpu import NotEnoughGpus, check, inventory  # noqa: PLC0415 - few tests need it

    try:
        check(count, inventory())
    except NotEnoughGpus as error:
        return str(error)
    return ""
