"""Recipes: what makes an environment of each system under test, as data, and what lies on its path when it runs.

Each ``*.toml`` here is one recipe; :mod:`ftharness.stack.recipes.recipe` says what may stand in it. ``at_start`` is a
folder for ``PYTHONPATH``, whose files run under the interpreter of the system under test.
"""

from ftharness.stack.recipes.recipe import (
    Check,
    Choose,
    Install,
    Metadata,
    Recipe,
    Requires,
    Run,
    Step,
    Uninstall,
    find_recipe,
    recipe_names,
    variants_of,
)

__all__ = [
    "Check",
    "Choose",
    "Install",
    "Metadata",
    "Recipe",
    "Requires",
    "Run",
    "Step",
    "Uninstall",
    "find_recipe",
    "recipe_names",
    "variants_of",
]
