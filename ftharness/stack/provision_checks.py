"""Whether an environment works, seen by running it, before it is called complete."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from ftharness.stack.provision_command import run_told
from ftharness.stack.provision_errors import ProvisionError
from ftharness.stack.provision_steps import fill
from ftharness.stack.provision_variables import variables_of
from ftharness.stack.recipes import Recipe


def check(recipe: Recipe, folder: Path, found: Mapping[str, str], lock: int, say: Callable[[str], None]) -> None:
    """Run each check of the recipe, as the stack would run what is in it.

    Raises:
        ProvisionError: One failed, or did not say what it has to.
    """
    for one in recipe.check:
        argv = [str(folder / "bin" / one.argv[0]), *one.argv[1:]]
        what = " ".join(one.argv)
        say(f"checking: {what}")
        says = fill(one.says, found)
        env = variables_of(recipe, os.environ)
        # Python looks for modules where it is, too: in the environment's own folder are none.
        output = run_told(argv, f"installed, but {what}", lock, say, env=env, cwd=folder)
        if says not in output:
            tail = "\n".join(f"    {line[:500]}" for line in output.splitlines()[-12:])
            raise ProvisionError(f"installed, but {what} does not say {says!r}\n  it says:\n{tail}")
