"""What the extra ``k8s`` brings, imported when it is needed."""

from importlib import import_module
from typing import Any

from ftharness.stack import NotAvailable


def needed(module: str) -> Any:
    """The module.

    Raises:
        NotAvailable: It is not installed; says how to get it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise NotAvailable(
            f"Kubernetes needs {error.name or module}, which is not installed here; `pip install 'ftharness[k8s]'` does it"
        ) from error
