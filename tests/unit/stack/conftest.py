"""A package index in a folder, with packages of the tests' own, so that the real pip needs no network."""

import base64
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest


class Packages:
    """Wheels in a folder, which is where pip looks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(
        self,
        name: str,
        version: str,
        *requires: str,
        files: Mapping[str, str] | None = None,
        scripts: Mapping[str, str] | None = None,
        extras: tuple[str, ...] = (),
    ) -> Path:
        """A package that pip installs: its modules (by default one, with its version), its metadata, and the record of both."""
        info = f"{name}-{version}.dist-info"
        entries = "".join(f"{script} = {target}\n" for script, target in (scripts or {}).items())
        metadata = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
        metadata += "".join(f"Provides-Extra: {extra}\n" for extra in extras)
        metadata += "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
        content = {
            **({f"{name}.py": f"__version__ = {version!r}\n"} if files is None else files),
            f"{info}/METADATA": metadata,
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/entry_points.txt": f"[console_scripts]\n{entries}",
        }
        record = ""
        for path, text in content.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{path},sha256={digest},{len(text.encode())}\n"
        wheel = self.folder / f"{name}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for path, text in {**content, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
                archive.writestr(path, text)
        return wheel


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packages:
    """An empty index, and a cache folder of the test's own."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("FTHARNESS_CACHE", str(tmp_path / "cache"))
    return Packages(folder)


@pytest.fixture
def dynamo(packages: Packages) -> Packages:
    """With a release of Dynamo in it, as its metadata look, and nothing of what it must not ask for."""
    packages.add(
        "ai_dynamo",
        "9.9.9",
        "ai-dynamo-runtime==9.9.9",
        "aisimulate>=1; python_version >= '3.11'",
        "never-asked-for; extra == 'vllm'",
    )
    packages.add("ai_dynamo_runtime", "9.9.9")
    return packages
