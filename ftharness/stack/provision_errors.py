"""How making an environment fails."""


class ProvisionError(Exception):
    """An environment could not be made; the message says what was tried, what was seen, and what to do.

    Attributes:
        passes: Whether it may go by itself, as a network that is away does; what was done so far is then kept.
    """

    def __init__(self, message: str, *, passes: bool = False) -> None:
        super().__init__(message)
        self.passes = passes


class SpecError(ProvisionError):
    """What was asked for cannot be an environment; nothing was tried."""
