"""Carries out a recipe's steps, and remembers which are done, so that an interrupted one goes on where it was."""

import hashlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from ftharness.stack.provision_command import run_told
from ftharness.stack.provision_packages import chosen, drop_half_installed, requirements, say_installed
from ftharness.stack.provision_place import interpreter_of
from ftharness.stack.provision_spec import Spec
from ftharness.stack.recipes import Choose, Install, Metadata, Requires, Step, Uninstall

_JOURNAL = ".steps"
_NAMED = 8  # packages, of those that a step installs
_PIP = ("-I", "-m", "pip", "--no-input", "--disable-pip-version-check")


class Steps:
    """The making of one environment, under its lock."""

    def __init__(self, folder: Path, spec: Spec, lock: int, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._spec = spec
        self._lock = lock
        self._say = say
        self.found: dict[str, str] = {"version": spec.version}
        self._done: list[str] = []

    def begin(self) -> bool:
        """The bare environment: made, or found as an earlier try left it; whether it was found."""
        self._done = self._remembered()
        if self._done:
            self._say(
                f"an earlier try to make {self._folder} was not finished; going on after {len(self._done) - 1} steps"
            )
            for package in drop_half_installed(self._folder):
                self._say(f"  {package} was installed by half; it is installed again")
            return True
        if self._folder.exists():
            self._say(f"an earlier try to make {self._folder} was not finished; making it anew")
            shutil.rmtree(self._folder)
        self._say(f"making {self._folder} with {sys.executable}")
        self._run([sys.executable, "-I", "-m", "venv", str(self._folder)], f"making {self._folder}")
        self._remember(_made_by())
        return False

    def carry_out(self) -> None:
        """All steps that are not done yet.

        Raises:
            ProvisionError: One failed.
        """
        steps = self._spec.recipe.step
        for place, step in enumerate(steps, 1):
            if isinstance(step, Choose):  # costs nothing, and what it finds is not remembered
                self.found[step.name] = chosen(self._folder, step)
                self._say(f"[{place}/{len(steps)}] {self._spec} asks for {step.requirement} {self.found[step.name]}")
                continue
            step = filled(step, self.found)  # noqa: PLW2901 - the same step, with its versions
            mark = hashlib.sha256(msgspec.json.encode(step)).hexdigest()
            if mark in self._done:
                continue
            began = time.monotonic()
            for text, argv in self._commands(step):
                self._say(f"[{place}/{len(steps)}] {text}")
                self._run(
                    [str(interpreter_of(self._folder)), *_PIP, *argv], f"pip {argv[0]} of {text.partition(' ')[2]}"
                )
            self._remember(mark)
            self._say(f"  done in {time.monotonic() - began:.0f} s")

    def finish(self) -> None:
        """What was remembered is of no use any more."""
        (self._folder / _JOURNAL).unlink()

    def _commands(self, step: Step) -> Iterator[tuple[str, list[str]]]:
        """What a step is, and pip's arguments for it; what needs no pip is done at once."""
        match step:
            case Install():
                alone = [] if step.dependencies else ["--no-deps"]
                yield f"installing {' '.join(step.packages)}", ["install", *alone, *step.packages]
            case Requires():
                if needed := requirements(self._folder, step):
                    yield f"installing what {step.of} requires: {_few(needed)}", ["install", *needed]
            case Uninstall():
                yield f"removing {' '.join(step.packages)}", ["uninstall", "-y", *step.packages]
            case Metadata():
                for name, version in step.distributions.items():
                    say_installed(self._folder, name, version, f"not {name} itself: {self._spec} asks for its version")

    def _run(self, argv: list[str], what: str) -> None:
        run_told(argv, what, self._lock, self._say)

    def _remembered(self) -> list[str]:
        try:
            lines = (self._folder / _JOURNAL).read_text("utf-8").splitlines()
        except FileNotFoundError:
            return []
        usable = lines[:1] == [_made_by()] and interpreter_of(self._folder).exists()
        return lines if usable else []

    def _remember(self, mark: str) -> None:
        self._done.append(mark)
        written = self._folder / f"{_JOURNAL}.new"
        written.write_text("".join(f"{one}\n" for one in self._done), "utf-8")
        written.replace(self._folder / _JOURNAL)


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _made_by() -> str:
    """An environment is of one Python: what was begun with another one is of no use."""
    return f"python {sys.version.split()[0]} {Path(sys.executable).resolve()}"  # python and python3 are one


def filled(step: Step, found: Mapping[str, str]) -> Step:
    """The step with the versions in it that are known by now."""
    return msgspec.convert(_filled(msgspec.to_builtins(step), found), type(step))


def _filled(value: object, found: Mapping[str, str]) -> object:
    match value:
        case str():
            return fill(value, found)
        case list():
            return [_filled(one, found) for one in value]
        case dict():
            return {name: _filled(one, found) for name, one in value.items()}
        case _:
            return value


def fill(text: str, found: Mapping[str, str]) -> str:
    """``{version}`` and the like become what they stand for; other braces are left alone."""
    for name, value in found.items():
        text = text.replace(f"{{{name}}}", value)
    return text
