"""Which interpreter runs a real system, and with which variables: what a profile names, or what the user does."""

import os
from pathlib import Path
from typing import NamedTuple

from ftharness.stack.plan import NotAvailable
from ftharness.stack.profiles import Profile
from ftharness.stack.provision import environments, sut_version
from ftharness.stack.provision_spec import parsed
from ftharness.stack.provision_variables import variables_of


class Interpreter(NamedTuple):
    """An interpreter with the system under test.

    Attributes:
        python: Its path; the system's programs are beside it.
        env: The variables of whatever it runs.
        version: Of the profile's package.
    """

    python: Path
    env: dict[str, str]
    version: str


def interpreter_for(profile: Profile, sut_python: Path | None) -> Interpreter:
    """The interpreter that was asked for, the default version's, or that of the newest that was provisioned.

    Raises:
        NotAvailable: There is none; says how to get it.
        ValueError: What was asked for is no interpreter.
    """
    spec = parsed(profile.environment) if profile.environment else None
    hint = str(spec) if spec else ""
    if sut_python is not None:
        python = sut_python.absolute()
        # Whoever brings the like of a provisioned environment needs what that one needs.
        env = variables_of(spec.recipe, os.environ) if spec else dict(os.environ)
        version = sut_version(python, profile.package, hint)
        if not version:  # it ends with 0 whatever it is told to run
            raise ValueError(f"--sut-python {sut_python}: it runs, and is no Python")
        return Interpreter(python, env, version)
    if spec is None:
        raise NotAvailable(f"{profile.what} needs an environment of yours: --sut-python PATH, with {profile.package}")
    made = [one for one in environments() if one.recipe == spec.recipe]
    found = next((one for one in made if one.version == spec.version), None) or next(iter(made), None)
    if found is None:
        raise NotAvailable(
            f"{profile.what} is not installed here; `ftharness provision {spec}` does it, or --sut-python"
        )
    return Interpreter(found.python, found.variables(os.environ), sut_version(found.python, profile.package, hint))
