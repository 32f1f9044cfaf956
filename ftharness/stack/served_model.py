"""Which model the engines of a real stack load, how it is called in requests, and how its text is told as tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ftharness.client.client import one_a_chunk
from ftharness.stack.plan import NotAvailable, TokenIds
from ftharness.stack.provision_errors import ProvisionError
from ftharness.stack.provision_model import make_tiny_model
from ftharness.stack.sim import count_tokens
from ftharness.stack.token_ids import OurTokens
from ftharness.stack.topology import Topology

#: Of the model that is made where none is named: deep enough for streams that last, on one core some 50 to 150 tokens a second.
LAYERS = 24


class ServedModel(NamedTuple):
    """A model in a folder.

    Attributes:
        folder: Where it is.
        count: How many tokens a text of its answers holds.
        ids: Which; None where nobody here can tell.
    """

    folder: Path
    count: Callable[[str], int]
    ids: TokenIds | None


def served_model(topology: Topology) -> ServedModel:
    """The model that the topology names, or a tiny one, which is made if it is not there yet.

    Raises:
        ValueError: There is no such folder.
        NotAvailable: The tiny model could not be made.
    """
    if topology.model:
        return ServedModel(model_folder(topology.model), one_a_chunk, None)
    try:
        folder = make_tiny_model(LAYERS, 0, lambda _: None)
    except ProvisionError as error:
        raise NotAvailable(str(error)) from error
    return ServedModel(folder, count_tokens, OurTokens())


def model_folder(name: str) -> Path:
    """The folder of a model that is named.

    Raises:
        ValueError: There is no model in it.
    """
    folder = Path(name).absolute()
    if not (folder / "config.json").is_file():
        raise ValueError(f"model = {name!r}: {folder} is no folder of a model (it has no config.json)")
    return folder
