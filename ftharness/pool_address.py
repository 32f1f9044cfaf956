"""Where a manager of engine pools is found: names alone, for a command's help is shown before anything of pools is imported."""

#: By this variable, else at this port of this machine.
URL = "FTHARNESS_POOL_URL"
PORT = 8650
DEFAULT_URL = f"http://127.0.0.1:{PORT}"
#: And its bearer token, in a file's first line.
TOKEN_FILE = "FTHARNESS_POOL_TOKEN_FILE"  # noqa: S105 - a variable's name
