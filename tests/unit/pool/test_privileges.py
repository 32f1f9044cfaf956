"""What an engine may do: seen in a real process that has become it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ftharness.pool.privileges import Privileges, PrivilegesError, advisory, make_workdir, privileges

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else: run the tests as root")

# By path and with no site: as the shim runs it.
_APPLIED = """
import json, os, sys
for package, path in (("ftharness", sys.argv[1]), ("ftharness.pool", sys.argv[1] + "/pool")):
    module = type(sys)(package)
    module.__path__ = [path]
    sys.modules[package] = module
from ftharness.pool.privileges import apply
apply(json.loads(sys.argv[2]))
"""
# A program that everybody may run: an interpreter may lie in somebody's home.
_EXECUTED = "os.execv('/bin/cat', ['cat', '/proc/self/status'])"
_TRIED = """
def failed(call, *arguments):
    try:
        call(*arguments)
    except PermissionError:
        return True
    return False
print(json.dumps([failed(os.setuid, 0), failed(os.setgroups, [0]), failed(open, "/etc/shadow"), failed(os.kill, 1, 0)]))
"""
NOTHING = "0" * 16


def said(its: Privileges, then: str) -> str:
    """What a process says that has become it."""
    package = str(Path(__file__).parents[3] / "ftharness")
    argv = [sys.executable, "-I", "-S", "-c", _APPLIED + then, package, json.dumps(its.plain())]
    return subprocess.run(argv, capture_output=True, check=True, text=True).stdout


def became(its: Privileges) -> dict[str, str]:
    """What the kernel says of a program that it executed then."""
    lines = said(its, _EXECUTED).splitlines()
    return {name: " ".join(value.split()) for name, _, value in (line.partition(":") for line in lines)}


@needs_root
def test_another_user_has_nothing_of_roots() -> None:
    """All four of its numbers, its groups and no other; no capability, in no set; no way to gain one."""
    its = privileges("nobody")
    assert its.uid not in (None, 0)
    told = became(its)
    assert told["Uid"] == " ".join([str(its.uid)] * 4)
    assert told["Gid"] == " ".join([str(its.gid)] * 4)
    assert sorted(map(int, told["Groups"].split())) == sorted(its.groups)
    assert 0 not in its.groups
    assert {told[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {NOTHING}
    assert told["NoNewPrivs"] == "1"


def test_who_stays_who_he_is_loses_every_capability() -> None:
    """Root's program, too, has none after its exec; a manager that is nobody special can still start engines."""
    told = became(privileges(""))
    assert told["Uid"].split()[1] == str(os.geteuid())
    assert {told[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {NOTHING}
    assert told["NoNewPrivs"] == "1"
    if os.geteuid() == 0:
        assert told["CapBnd"] == NOTHING
    before_exec = said(privileges(""), "print(open('/proc/self/status').read())")
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert f"{name}:\t{NOTHING}" in before_exec


@needs_root
def test_the_way_back_is_closed() -> None:
    """Neither to root, nor past the rights of a file, nor to others' processes."""
    assert json.loads(said(privileges("nobody"), _TRIED)) == [True] * 4


@needs_root
def test_root_without_a_user_is_advised_against() -> None:
    """By a sentence for the log; not who runs as somebody."""
    assert "run as root" in advisory("")
    assert "run as root" in advisory("root")
    assert advisory("nobody") == ""


def test_a_user_that_there_is_not_is_told() -> None:
    """By name or number."""
    for name in ("nobody-of-that-name", "999999999", "99999999999999999999"):
        with pytest.raises(PrivilegesError, match=f"user '{name}': there is none"):
            privileges(name)
    assert privileges(str(os.geteuid())) == Privileges()


def test_only_root_becomes_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever else tries is told before anything is started. The number of the caller is pretended: the tests may be root's."""
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    with pytest.raises(
        PrivilegesError, match="only root can start an engine as somebody else, and the manager runs as number 4242"
    ):
        privileges("nobody")
    assert advisory("") == ""


@needs_root
def test_a_workdir_is_the_engines_own(tmp_path: Path) -> None:
    """Nobody else can read it; one that its user could not reach is refused by the folder at which it ends."""
    its = privileges("nobody")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder != folder.parent and not folder.stat().st_mode & 0o001:
            folder.chmod(0o711)  # pytest's own folders are for root alone
    make_workdir(tmp_path / "work" / "p-1", its)
    state = (tmp_path / "work" / "p-1").stat()
    assert (state.st_uid, state.st_gid, state.st_mode & 0o777) == (its.uid, its.gid, 0o700)
    (tmp_path / "work").chmod(0o700)
    with pytest.raises(PrivilegesError, match=f"user number {its.uid} cannot pass {tmp_path}/work; `chmod o\\+x"):
        make_workdir(tmp_path / "work" / "p-1", its)


def test_a_workdir_that_is_there_is_closed_to_others(tmp_path: Path) -> None:
    """Whatever it was before; without a user it is ours."""
    (tmp_path / "p-1").mkdir(mode=0o755)
    make_workdir(tmp_path / "p-1", Privileges())
    assert (tmp_path / "p-1").stat().st_mode & 0o777 == 0o700
