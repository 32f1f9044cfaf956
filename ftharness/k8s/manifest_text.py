"""A manifest as YAML that a person reads: no anchors, and a script as a block."""

from collections.abc import Mapping
from typing import Any

from ftharness.k8s.needs import needed

_ANY_WIDTH = 1 << 20  # an argument is not folded: whoever copies it gets what runs


def as_yaml(manifest: Mapping[str, Any]) -> str:
    """The text, with the fields in their order.

    Raises:
        NotAvailable: The extra ``k8s`` is not installed.
    """
    yaml = needed("yaml")

    class Dumper(yaml.SafeDumper):  # type: ignore[misc, name-defined, unused-ignore]
        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - as PyYAML calls it
            return True

    def text(dumper: Any, value: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    written: str = yaml.dump(manifest, Dumper=Dumper, sort_keys=False, width=_ANY_WIDTH, allow_unicode=True)
    return written
