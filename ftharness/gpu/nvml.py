"""NVML by NVIDIA's own binding, where both are there; the words for why they are not."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class NoGpus(Exception):  # noqa: N818 - says what is the case
    """GPUs cannot be had; the message says why."""


class NoNvml(NoGpus):
    """NVML cannot be asked here; the message says why."""


@contextmanager
def nvml() -> Iterator[Any]:
    """The binding's module, initialised.

    Without the persistence daemon the first initialisation wakes the driver, which takes a second or two for each GPU; while
    one is open, others are quick.

    Raises:
        NoNvml: There is no binding, no driver, or one that does not answer.
    """
    try:
        import pynvml  # noqa: PLC0415 - an extra of the project's
    except ImportError:
        raise NoNvml("NVML's binding is not installed: pip install 'ftharness[gpu]'") from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise NoNvml(_why(error, pynvml)) from None
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _why(error: Any, pynvml: Any) -> str:
    match error.value:
        case pynvml.NVML_ERROR_LIBRARY_NOT_FOUND:
            return "there is no libnvidia-ml.so.1: no NVIDIA driver on this machine, or none in this container"
        case pynvml.NVML_ERROR_DRIVER_NOT_LOADED:
            return "the NVIDIA driver is not loaded (NVML: Driver Not Loaded): no GPU, or its kernel module is missing"
        case pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
            return "NVML and the loaded NVIDIA driver are of two versions (the driver was updated): restart the machine"
        case pynvml.NVML_ERROR_NO_PERMISSION:
            return "this user may not open the GPUs (NVML: Insufficient Permissions): see /dev/nvidia*"
    return f"NVML cannot be initialised: {error}"
