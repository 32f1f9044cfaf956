"""Who may call the manager: everybody on this machine, unless it has a token; from elsewhere, whoever has the token."""

import hmac
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from ftharness.pool.refusals import Refusal, refuse

#: A token that could be guessed is worse than none: with none, nobody believes that it protects.
SHORTEST = 16
_TOKEN = re.compile(r"[!-~]+")
#: Says whether the manager is up, and nothing else: what asks it after that has no token to give.
OPEN = frozenset({"/health"})


class TokenError(ValueError):
    """The token cannot be had, or is none."""


def read_token(file: str = "", variable: str = "", environment: Mapping[str, str] | None = None) -> str:
    """The bearer token; "" where neither place is given.

    Args:
        file: Its first line is the token.
        variable: Or the variable that holds it.
        environment: Where variables are; the process's own.

    Raises:
        TokenError: There is none, or it is too short or not printable ASCII. Its text is in no message.
    """
    if file:
        try:
            text = Path(file).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise TokenError(f"{file}: the token cannot be read: {error.strerror}") from error
        return checked_token(text.partition("\n")[0].strip(), file)
    if variable:
        held = (os.environ if environment is None else environment).get(variable)
        if held is None:
            raise TokenError(f"the variable {variable}, which should hold the token, is not set")
        return checked_token(held.strip(), variable)
    return ""


def check_exposure(host: str, token: str) -> None:
    """Beyond this machine nobody is answered without a token.

    Raises:
        TokenError: ``host`` is not loopback, and there is no token.
    """
    if not token and not is_loopback(host):
        raise TokenError(
            f"host = {host!r} can be reached from other machines, which takes a token: set token_file or token_env, "
            "or listen on 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it. A name other than ``localhost`` may be any address: it is not."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guarded:
    """ASGI: lets through whom it may.

    With a token, whoever brings it. Without one, this machine's programs, but not pages of a browser on it: one that the
    user has open elsewhere could otherwise drain a pool, by its own origin or by a name that it has made point here.

    Args:
        app: What is guarded.
        token: The bearer token; "": none.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        if scope["type"] == "http" and (refused := self._refused(scope)) is not None:
            await refuse(refused)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refused(self, scope: Scope) -> Refusal | None:
        if not self._expected:
            return None if _from_this_machine(scope) else Refusal(403, "forbidden", "not from a page of a browser")
        if scope["path"] in OPEN or self._has_token(scope):
            return None
        return Refusal(
            401,
            "unauthorized",
            "this manager wants its bearer token: Authorization: Bearer TOKEN",
            headers={"WWW-Authenticate": "Bearer"},
        )

    def _has_token(self, scope: Scope) -> bool:
        said = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(said) != 1:
            return False
        scheme, _, token = said[0].partition(b" ")
        # Both sides as bytes, and compared whole whatever differs first: how long it takes says nothing of the token.
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._expected)


def _from_this_machine(scope: Scope) -> bool:
    for name, value in scope["headers"]:
        if name == b"origin":
            return False
        if name == b"host" and not is_loopback(_host_of(value.decode("latin-1"))):
            return False
    return True


def _host_of(header: str) -> str:
    """Without the port: ``127.0.0.1:80``, ``[::1]:80``."""
    if header.startswith("["):
        return header.partition("]")[0][1:]
    return header.partition(":")[0]


def checked_token(token: str, where: str) -> str:
    """The token, if it is one.

    Args:
        token: What is to be one.
        where: What to call it in a message, which does not repeat it.

    Raises:
        TokenError: It is too short, or a header cannot carry it.
    """
    if len(token) < SHORTEST:
        raise TokenError(f"{where}: the token has {len(token)} characters; it needs {SHORTEST} at least")
    if not _TOKEN.fullmatch(token):
        raise TokenError(f"{where}: a token is printable ASCII without spaces, as a header carries it")
    return token
