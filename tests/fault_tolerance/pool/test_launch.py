"""As whom an engine is started, and what is said of it."""

import os
import pwd
import sys
from pathlib import Path
from typing import Any

import pytest

from ftharness.pool.config import ContainerConfig

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root, which alone can start a process as somebody else"
)
#: In docker's place, which is not everywhere: like its daemon it runs what it starts as the user that it was told, in the
#: folder that is mounted, and says how it was started itself.
_DOCKER = """#!{python}
import os, sys, time
if sys.argv[1] == "run":
    uid, _, gid = sys.argv[sys.argv.index("--user") + 1].partition(":")
    os.chdir(sys.argv[sys.argv.index("--volume") + 1].partition(":")[0])
    open("started-by", "w").write(str(os.geteuid()))
    os.setgroups([]), os.setgid(int(gid)), os.setuid(int(uid))
    open("written", "w").write("by the engine")
    time.sleep(600)
"""


@pytest.fixture
def passable(tmp_path: Path) -> Path:
    """A folder that every user can pass on the way to its own; pytest's are for root alone."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder != folder.parent and not folder.stat().st_mode & 0o001:
            folder.chmod(0o711)
    return tmp_path


@needs_root
async def test_an_engine_in_a_container_can_write_its_folder(
    kit: Any, passable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is its user's, and nobody else's; docker itself, which needs root, is started as who we are."""
    programs = passable / "bin"
    programs.mkdir()
    (programs / "docker").write_text(_DOCKER.format(python=sys.executable))
    (programs / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    config = kit.pool(
        engine="command",
        command=["/engine"],
        user="nobody",
        container=ContainerConfig(image="any", program="docker"),
        stop_grace_s=0.1,
    )
    async with kit.manager(config, fail_mode="open") as (_, told):
        await told.until("engine_started")
        folder = kit.state / "work" / "p-1"
        await told.holds((folder / "written").exists, "the engine wrote into its folder")
        state = folder.stat()
        nobody = pwd.getpwnam("nobody")
        assert (state.st_uid, state.st_gid, state.st_mode & 0o777) == (nobody.pw_uid, nobody.pw_gid, 0o700)
        assert (folder / "written").stat().st_uid == nobody.pw_uid
        assert (folder / "started-by").read_text() == "0"


@needs_root
@pytest.mark.parametrize("user, said", [("", 1), ("nobody", 0)], ids=["root", "nobody"])
@pytest.mark.usefixtures("passable")
async def test_engines_that_run_as_root_are_told_of(kit: Any, user: str, said: int) -> None:
    """Once a pool, before the first one runs, however many there are and however often they start; not of ones of somebody."""
    config = kit.pool(engine="command", command=["/bin/true"], user=user, replicas=2)
    async with kit.manager(config, fail_mode="open") as (_, told):
        await told.until("engine_started", 4)
        assert told.all("engine_lost")
        advised = [line for line in told.all("advisory") if "run as root" in line["reason"]]
        assert [(line["pool_id"], line["engine_id"]) for line in advised] == [("p", "")] * said
        assert all(line["t"] < told.all("engine_started")[0]["t"] for line in advised)


async def test_a_model_without_a_digest_is_told_of_once(kit: Any) -> None:
    """However often it is staged, as it is again after a start that came to nothing; another one is told of, too."""
    old, new = kit.model("old"), kit.model("new")
    config = kit.pool(engine="command", command=["/nothing"], model=old)
    async with kit.manager(config, fail_mode="open") as (manager, told):
        await told.until("model_staged", 3)
        await manager.operations.until_over(manager.reload("p", new).id)
        await told.until("model_staged", 5)
        staged = [line["path"] for line in told.all("model_staged")]
        assert {staged.count(old) > 1, new in staged} == {True}
        advised = [line["reason"].partition(" ")[0] for line in told.all("advisory") if "digest" in line["reason"]]
        assert sorted(advised) == sorted([old, new])


@pytest.mark.parametrize("set_to", ["", "/somewhere"])
async def test_an_engine_has_its_temporary_files_to_itself(
    kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_to: str
) -> None:
    """A folder where the manager has its own, gone when the engine is stopped; a pool that sets ``TMPDIR`` has that."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    config = kit.pool(engine="command", command=["/bin/sleep", "600"], env={"TMPDIR": set_to} if set_to else {})
    async with kit.manager(config, fail_mode="open") as (_, told):
        pid = (await told.until("engine_started"))["pid"]
        variables = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        (temporary,) = (word.partition("=")[2] for word in variables if word.startswith("TMPDIR="))
        if set_to:
            assert temporary == set_to
        else:
            assert Path(temporary).parent == tmp_path
            assert Path(temporary).is_dir()
    assert not list(tmp_path.glob("ft-*"))
