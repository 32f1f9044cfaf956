"""How the HTTP API says no: a status, a code for programs, a sentence for people, and what it is about."""

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response


class Refusal(Exception):  # noqa: N818 - the field's word
    """A call that is not done.

    Args:
        status: HTTP's.
        code: For programs: stable.
        message: For people: what was asked, what is the case, what to do.
        headers: Of the answer.
        about: What else the answer says: ``pool_id``, ``operation``, ``lease``.
    """

    def __init__(
        self, status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None, **about: Any
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})
        self.about = about


def refuse(refusal: Refusal) -> Response:
    """The answer."""
    body = {"error": {"code": refusal.code, "message": str(refusal), **refusal.about}}
    return Response(msgspec.json.encode(body), refusal.status, headers=refusal.headers, media_type="application/json")
