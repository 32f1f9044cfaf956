"""The environment variables that a process of an environment has, whatever it is."""

import os
from collections.abc import Mapping
from pathlib import Path

from ftharness.stack import recipes
from ftharness.stack.recipes import Recipe

AT_START = Path(recipes.__file__).parent / "at_start"


def variables_of(recipe: Recipe, inherited: Mapping[str, str]) -> dict[str, str]:
    """What a recipe says, over what is inherited; a ``PYTHONPATH`` that is inherited comes after ours."""
    variables = {name: value for name, value in inherited.items() if name not in recipe.run.unset}
    if recipe.run.at_start:
        theirs = [variables["PYTHONPATH"]] if variables.get("PYTHONPATH") else []
        variables["PYTHONPATH"] = os.pathsep.join([str(AT_START), *theirs])
    return variables | recipe.run.env
