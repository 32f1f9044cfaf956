"""What an engine's log says when its device has failed."""

import pytest

from ftharness.pool.engine_errors import known_errors, recognise
from ftharness.pool.sim_engine import CUDA_ERRORS

LINES = {
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB": "out_of_memory",
    "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`": "out_of_memory",
    "RuntimeError: CUDA error: out of memory": "out_of_memory",
    "RuntimeError: CUDA error: an illegal memory access was encountered": "illegal_access",
    "torch.AcceleratorError: CUDA error: device-side assert triggered": "illegal_access",
    "RuntimeError: CUDA error: uncorrectable ECC error encountered": "ecc_uncorrectable",
    "[123.4] NVRM: Xid (PCI:0000:3b:00): 48, pid=1234, An uncorrectable double bit error (DBE)": "ecc_uncorrectable",
    "NVRM: Xid (PCI:0000:3b:00): 79, pid=1234": "gpu_lost",
    "NVRM: GPU at PCI:0000:3b:00 GPU has fallen off the bus.": "gpu_lost",
    "pynvml.NVMLError_GpuIsLost: GPU is lost": "gpu_lost",
    "RuntimeError: CUDA driver version is insufficient for CUDA runtime version": "driver_mismatch",
    "RuntimeError: The NVIDIA driver on your system is too old (found version 11040).": "driver_mismatch",
    "Failed to initialize NVML: Driver/library version mismatch": "driver_mismatch",
    "RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU": "driver_missing",
    "RuntimeError: CUDA error: no kernel image is available for execution on the device": "no_kernel_image",
    "RuntimeError: CUDA error: invalid device ordinal": "invalid_device",
    "RuntimeError: CUDA error: the launch timed out and was terminated": "launch_timeout",
    "torch.distributed.DistBackendError: NCCL error in: ../ProcessGroupNCCL.cpp:1691, unhandled cuda error": "nccl",
    "[rank0]:[E] [PG 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=4": "nccl",
    "h1:77:101 [0] NCCL WARN Cuda failure 'out of memory'": "nccl",
    "RuntimeError: CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`": "cublas",
    "RuntimeError: CUDA driver error: an illegal memory access was encountered": "illegal_access",
    "RuntimeError: Triton Error [CUDA]: an illegal memory access was encountered": "illegal_access",
    "cuda.bindings: CUDA_ERROR_ILLEGAL_ADDRESS": "illegal_access",
    "RuntimeError: Triton Error [CUDA]: misaligned address": "cuda",
    "CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure": "cuda",
    "RuntimeError: No CUDA GPUs are available": "driver_missing",
    "Failed to initialize NVML: Unknown Error": "driver_missing",
    "NVRM: Xid (PCI:0000:3b:00): 119, pid=1234, Timeout after 6s of waiting for RPC response from GPU0 GSP!": "gpu_lost",
    "CUDA error: some text that a later release has": "cuda",
    "terminate called after throwing: cudaErrorUnknown": "cuda",
}
HARMLESS = (
    "INFO 01-31 12:00:00 [core.py:58] Initializing a V1 LLM engine (v0.32.0) with config: model='/m', device_config=cuda",
    "INFO [gpu_model_runner.py:1] Graph capturing finished in 11 secs, took 0.53 GiB; CUDA graphs: 67",
    "NCCL INFO Bootstrap : Using eth0:10.0.0.2<0>",
    "INFO nccl.py:12 vLLM is using nccl==2.21.5",
    "WARNING: the prompt 'how do I fix a cuda problem' has 9 tokens",
    "INFO [logger.py:41] Received request cmpl-1: prompt: 'what does CUDA error: out of memory mean?', params: …",
    "Receive: obj=GenerateReqInput(rid='1', text='RuntimeError: CUDA error: out of memory')",
    'INFO {"messages": [{"role": "user", "content": "CUDA error: out of memory"}]}',
    "WARNING: the prompt 'CUDA error: out of memory' has 9 tokens",
    "",
)


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_the_drivers_is_recognised(line: str) -> None:
    """Under the name that its remedy goes by; whatever stands before it."""
    for before in ("", "(EngineCore_0 pid=77) ERROR 01-31 12:00:00 [core.py:708] "):
        error = recognise(before + line)
        assert error is not None
        assert error.name == LINES[line]
        assert len(error.remediation) > 20


@pytest.mark.parametrize("line", HARMLESS)
def test_other_lines_are_not(line: str) -> None:
    """Also those that speak of the same things."""
    assert recognise(line) is None


def test_every_kind_has_a_line_and_a_name_of_its_own() -> None:
    """A pattern that nothing was ever tried on is none; the simulated engine's lines are among the known ones."""
    names = [error.name for error in known_errors()]
    assert len(set(names)) == len(names)
    assert set(LINES.values()) == set(names)
    assert all(recognise(line) is not None for line in CUDA_ERRORS.values())


def test_a_line_without_end_costs_no_more_than_its_beginning() -> None:
    """What is looked at is bounded."""
    assert recognise("x" * 100_000 + "CUDA error: out of memory") is None
    assert recognise("CUDA error: out of memory" + "x" * 100_000) is not None
