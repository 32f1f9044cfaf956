"""GPUs of the tests' own: NVIDIA's binding over a stand-in for the driver's library, since this is for machines without one."""

import _ctypes
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

MIB = 1 << 20


class StandIn:
    """What the stand-in library tells of, and where programs find it."""

    def __init__(self, folder: Path, state: Path) -> None:
        self.folder = folder
        self.state = state

    @staticmethod
    def gpu(number: int, used: int = 10 * MIB) -> str:
        """A GPU of 16 GiB with so many bytes in use."""
        return f"gpu GPU-{number:08d} Tesla-T4 7 5 {16 << 30} {used}"

    def has(self, *lines: str) -> None:
        """From now on this is what there is; the lines' format stands in ``nvml.c``."""
        beside = self.state.with_suffix(".new")
        beside.write_text("".join(f"{line}\n" for line in lines))
        beside.replace(self.state)  # whoever asks meanwhile sees the one or the other

    @property
    def environ(self) -> dict[str, str]:
        """For a process that is to see these GPUs."""
        return {**os.environ, "LD_LIBRARY_PATH": str(self.folder), "STAND_IN_GPUS": str(self.state)}


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in, compiled: in a folder by the name under which the driver's is found."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("the stand-in for NVML is compiled with a C compiler: apt-get install gcc libc6-dev")
    folder = tmp_path_factory.mktemp("nvml")
    name = "libnvidia-ml.so.1"
    argv = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", f"-Wl,-soname,{name}"]
    subprocess.run([*argv, "-o", str(folder / name), str(Path(__file__).with_name("nvml.c"))], check=True)
    return folder


@pytest.fixture
def stand_in(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """The stand-in, loaded in this process: the loader gives a library that is there already to whoever asks for its name."""
    state = tmp_path / "gpus.txt"
    monkeypatch.setenv("STAND_IN_GPUS", str(state))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    _forget()
    loaded = ctypes.CDLL(str(library / "libnvidia-ml.so.1"))
    yield StandIn(library, state)
    _forget()
    _ctypes.dlclose(loaded._handle)


def _forget() -> None:
    """The binding keeps the library that it has loaded; other tests are to find none."""
    if pynvml.nvmlLib is not None:
        _ctypes.dlclose(pynvml.nvmlLib._handle)
    pynvml.nvmlLib = None
    pynvml._nvmlGetFunctionPointer_cache.clear()
