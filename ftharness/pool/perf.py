"""How fast engines are: hints for whoever places work, smoothed, one for each version, model and mask."""

from collections import OrderedDict

import msgspec

#: How many are remembered; the one that was measured longest ago goes first.
MOST = 64
#: The share of the newest measurement. Three weigh as much as all before them: a warm-up is a handful of requests.
ALPHA = 0.3


class Key(msgspec.Struct, frozen=True):
    """What a measurement holds for.

    Attributes:
        engine_version: Of the engine.
        model_id: Of the model.
        mask: The UUIDs of its devices, in order.
    """

    engine_version: str
    model_id: str
    mask: tuple[str, ...]


class Hint(msgspec.Struct, frozen=True):
    """Exponentially weighted means.

    Attributes:
        tokens_per_s: Of one stream, from its first token on.
        first_token_ms: From the request to the first token.
        samples: How many went in.
    """

    tokens_per_s: float
    first_token_ms: float
    samples: int


class PerfHints:
    """The hints of a manager.

    Args:
        alpha: The share of the newest measurement.
        most: How many keys are remembered.
    """

    def __init__(self, *, alpha: float = ALPHA, most: int = MOST) -> None:
        self._alpha = alpha
        self._most = most
        self._hints: OrderedDict[Key, Hint] = OrderedDict()

    def __len__(self) -> int:
        """How many keys are remembered."""
        return len(self._hints)

    def measured(self, key: Key, *, tokens_per_s: float, first_token_ms: float) -> Hint:
        """Take a measurement in; the first is taken as it is."""
        before = self._hints.pop(key, None)
        if before is None:
            hint = Hint(tokens_per_s, first_token_ms, 1)
        else:
            hint = Hint(
                self._smoothed(before.tokens_per_s, tokens_per_s),
                self._smoothed(before.first_token_ms, first_token_ms),
                before.samples + 1,
            )
        self._hints[key] = hint
        if len(self._hints) > self._most:
            self._hints.popitem(last=False)
        return hint

    def hint(self, key: Key) -> Hint | None:
        """What is known; None: nothing was measured yet, or too long ago."""
        return self._hints.get(key)

    def all(self) -> dict[Key, Hint]:
        """All that is known."""
        return dict(self._hints)

    def _smoothed(self, before: float, now: float) -> float:
        return before + self._alpha * (now - before)
