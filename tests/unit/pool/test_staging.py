"""The model before its engine."""

import asyncio
import contextlib
import hashlib
import os
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ftharness.pool import PoolConfig
from ftharness.pool.staging import Staged, StagingError, digest, stage


def pool(model: str = "", **more: object) -> PoolConfig:
    return PoolConfig(id="p", engine="sim", model=model, **more)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "tiny"
    (model / "more").mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "more" / "weights.bin").write_bytes(bytes(3 << 20))
    (model / "link.json").symlink_to("config.json")
    return model


async def test_a_pool_without_a_model_needs_none() -> None:
    """There is nothing to stage."""
    assert await stage(pool()) == Staged()


async def test_a_model_that_lies_there_is_taken_with_an_advisory(folder: Path) -> None:
    """Nobody said what its digest is; the advisory says how to get it."""
    staged = await stage(pool(str(folder)))
    assert (staged.model_id, staged.path, staged.digest_verified) == ("tiny", str(folder), False)
    assert f"python -m ftharness.pool.staging {folder}" in staged.advisory


def test_a_models_digest_is_printed_as_the_configuration_takes_it(folder: Path) -> None:
    """By the command that the advisory names."""
    argv = [sys.executable, "-m", "ftharness.pool.staging", str(folder)]
    said = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert said.stdout == f"sha256:{digest(folder)}  {folder}\n"


def test_a_digest_is_sha256sums(folder: Path) -> None:
    """Of a file its own, of a folder that of the sorted list, as the usual tools print both."""
    weights = folder / "more" / "weights.bin"
    assert digest(weights) == hashlib.sha256(bytes(3 << 20)).hexdigest()
    argv = [str(shutil.which("sha256sum")), "config.json", "link.json", "more/weights.bin"]
    listed = subprocess.run(argv, cwd=folder, capture_output=True, check=True).stdout
    assert digest(folder) == hashlib.sha256(listed).hexdigest()


@pytest.mark.parametrize("change", ["content", "name", "more"])
async def test_another_model_than_the_digest_says_is_refused(folder: Path, change: str) -> None:
    """Its files' contents, their names, and which there are: all count."""
    wanted = digest(folder)
    staged = await stage(pool(str(folder), digest=f"sha256:{wanted}"))
    assert (staged.digest_verified, staged.digest, staged.advisory) == (True, f"sha256:{wanted}", "")
    match change:
        case "content":
            (folder / "config.json").write_text("{ }")
        case "name":
            (folder / "more" / "weights.bin").rename(folder / "more" / "weights.bim")
        case "more":
            (folder / "pickle.bin").touch()
    with pytest.raises(
        StagingError, match=f"another model than the configuration says: its digest is .*, not {wanted}"
    ):
        await stage(pool(str(folder), digest=wanted))


async def test_a_model_that_is_not_there_is_said(tmp_path: Path) -> None:
    """With where it was to be."""
    with pytest.raises(
        StagingError, match=f"the model is to lie at {tmp_path}/none, and there is nothing; a provisioner"
    ):
        await stage(pool(str(tmp_path / "none")))


@pytest.mark.parametrize(
    "model, why",
    [
        (f"/{'x' * 256}", "the model is to lie at /x{256}, where nobody can look: File name too long"),
        ("~nobody-of-that-name/model", "~nobody-of-that-name/model: Could not determine home directory"),
    ],
    ids=["long", "nobody's"],
)
async def test_a_model_where_nobody_can_look_is_said(model: str, why: str) -> None:
    """As one that is not there: a reload to it costs the old engine nothing."""
    with pytest.raises(StagingError, match=why):
        await stage(pool(model))


async def test_a_provisioner_says_where_the_model_lies(folder: Path) -> None:
    """Its last line; it gets the reference, and is no shell. The model keeps the reference's name."""
    script = f"import sys; print('fetching', sys.argv[1]); print({str(folder)!r}); print()"
    config = pool("org/name; touch x", provisioner=[sys.executable, "-c", script, "{model}"])
    staged = await stage(config)
    assert (staged.path, staged.model_id) == (str(folder), "name; touch x")


@pytest.mark.parametrize(
    "script, why",
    [
        ("import sys; sys.exit('no such repository')", "ended with 1: no such repository"),
        ("pass", "ended well and printed no path"),
        ("print('/nowhere/at/all')", "the provisioner said that it lies at /nowhere/at/all, and there is nothing"),
    ],
)
async def test_a_provisioner_that_brings_nothing_is_told(script: str, why: str) -> None:
    """With what it said."""
    with pytest.raises(StagingError, match=why):
        await stage(pool("m", provisioner=[sys.executable, "-c", script]))


async def test_a_provisioner_that_cannot_be_run_is_told() -> None:
    """Its program, or what its words stand for."""
    with pytest.raises(StagingError, match="the provisioner /no/program cannot be run: No such file"):
        await stage(pool("m", provisioner=["/no/program"]))
    with pytest.raises(StagingError, match=r"provisioner: unknown placeholder \{port\}"):
        await stage(pool("m", provisioner=["x", "{port}"]))


async def test_a_provisioner_has_its_time_and_leaves_nothing(tmp_path: Path) -> None:
    """It and what it started are killed: a child that holds its output is not waited for."""
    pid = tmp_path / "pid"
    script = 'sleep 60 & echo $! > "$0"; wait'
    config = pool("m", provisioner=["/bin/sh", "-c", script, str(pid)], provisioner_timeout_s=1.5)
    async with asyncio.timeout(20.0):  # nobody waits for what holds its output
        with pytest.raises(StagingError, match=r"has not ended within 1\.5 s"):
            await stage(config)
    with contextlib.suppress(ProcessLookupError):  # it is gone, or about to
        child = os.pidfd_open(int(pid.read_text()))
        try:
            assert select.select([child], [], [], 10.0)[0]
        finally:
            os.close(child)
