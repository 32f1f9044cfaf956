"""Plain data without secrets, for whoever reads us: an engine's last words may have repeated its key."""

from collections.abc import Mapping
from typing import Any

from ftharness.process import Redactor


def without_secrets(value: Any, redactor: Redactor) -> Any:
    """The same texts, lists and tables, with ``***`` for each secret in a text; all else as it is."""
    if isinstance(value, str):
        return redactor.text(value)
    if isinstance(value, Mapping):
        return {str(key): without_secrets(one, redactor) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_secrets(one, redactor) for one in value]
    return value
