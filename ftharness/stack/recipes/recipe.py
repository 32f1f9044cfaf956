"""What may stand in a recipe, and which recipes there are.

In every string of a step, of a check and of what it prints, ``{version}`` is the version that was asked for, and
``{NAME}`` what an earlier ``choose`` found.
"""

from functools import cache
from pathlib import Path
from typing import TypeAlias

import msgspec

from ftharness.logs import read_toml

FOLDER = Path(__file__).parent


class Install(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="do", tag="install"):
    """Packages from the index.

    Attributes:
        packages: As pip takes them.
        dependencies: Whether what they require comes, too.
    """

    packages: list[str]
    dependencies: bool = True


class Requires(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="do", tag="requires"):
    """What an installed package's metadata asks for on this Python, in one go.

    Attributes:
        of: The package.
        extra: One of its extras, whose requirements are asked for as well.
        without: Requirements that are left out.
        bare: Requirements that are asked for without their extras.
        any_build: Requirements whose version may be of any build: ``torch==2.13.0+cpu`` is asked for as 2.13.0.
        also: Further ones, which stand for what was left out.
    """

    of: str
    extra: str = ""
    without: list[str] = []
    bare: list[str] = []
    any_build: list[str] = []
    also: list[str] = []


class Choose(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="do", tag="choose"):
    """A version that an installed package's metadata asks for, for later steps.

    Attributes:
        name: What later steps call it.
        of: The package.
        extra: The extra that asks for it.
        requirement: What is asked for, with ``==``.
    """

    name: str
    of: str
    extra: str = ""
    requirement: str


class Uninstall(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="do", tag="uninstall"):
    """Packages that something required, and that must not be there."""

    packages: list[str]


class Metadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="do", tag="metadata"):
    """Distributions that are said to be there, by name and version, for code that asks only that."""

    distributions: dict[str, str]


Step: TypeAlias = Install | Requires | Choose | Uninstall | Metadata


class Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A command that tells whether the environment works.

    Attributes:
        argv: The first is a program in the environment's ``bin``.
        says: What stands in its output.
    """

    argv: list[str]
    says: str = ""


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every process of the environment needs.

    Attributes:
        at_start: Whether ``at_start`` stands on its ``PYTHONPATH``.
        env: Variables that are set.
        unset: Variables that are not passed on.
    """

    at_start: bool = False
    env: dict[str, str] = {}
    unset: list[str] = []


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How to make an environment, how to see that it works, and what it needs to run.

    Attributes:
        name: What a spec calls it.
        variant: What a spec says after ``+``; empty where there is nothing to say.
        default: The version of a spec that names none.
        tried: Versions that were installed and run here.
        needs_mb: Free space that making it takes, in MB.
        serves: What can be started in it, in words.
        stacks: The stacks that can run on it.
    """

    name: str
    variant: str = ""
    default: str
    tried: list[str]
    needs_mb: int
    serves: str
    stacks: list[str] = []
    step: list[Step]
    check: list[Check] = []
    run: Run = Run()

    def spec(self, version: str) -> str:
        """How a spec names this recipe's environment of a version."""
        return f"{self.name}=={version}{self.suffix}"

    @property
    def suffix(self) -> str:
        """The variant, as a spec has it."""
        return f"+{self.variant}" if self.variant else ""


@cache
def _recipes() -> dict[tuple[str, str], Recipe]:
    read = [read_toml(path, Recipe) for path in sorted(FOLDER.glob("*.toml"))]
    return {(recipe.name, recipe.variant): recipe for recipe in read}


def find_recipe(name: str, variant: str) -> Recipe | None:
    """The recipe of that name and variant; None if there is none."""
    return _recipes().get((name, variant))


def recipe_names() -> set[str]:
    """What a spec can begin with."""
    return {name for name, _ in _recipes()}


def variants_of(name: str) -> list[Recipe]:
    """All recipes of that name, the plain one first."""
    return [recipe for (known, _), recipe in sorted(_recipes().items()) if known == name]
