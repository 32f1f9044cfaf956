"""An error as a person reads it."""


def sentence(error: Exception) -> str:
    """What an error says, without its kind."""
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    if isinstance(error, (LookupError, ValueError)):
        return str(error.args[0] if error.args else error)
    return str(error)
