"""Calls of a manager's HTTP API, as commands make them."""

from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
import msgspec

from ftharness.pool_address import DEFAULT_URL

#: Seconds for an answer that is not put off.
_ANSWER_S = 10.0


class NotReached(Exception):  # noqa: N818 - says what is the case
    """No manager answered; the message says where one was looked for."""


class WrongUrl(NotReached):
    """Nor could one: it is no URL at which a manager can be."""


class NotDone(Exception):  # noqa: N818 - says what is the case
    """The manager said no.

    Attributes:
        status: HTTP's.
        code: The manager's.
        told: The rest of what it said.
    """

    def __init__(self, message: str, *, status: int, code: str, told: dict[str, Any]) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.told = told


class Calls:
    """A manager that is reached by HTTP.

    Args:
        url: Where.
        token: The bearer token; "": none.
    """

    def __init__(self, url: str, token: str = "") -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._url = url
        # No proxies: the manager is on this machine, or named by whoever calls.
        self._client = httpx.AsyncClient(headers=headers, trust_env=False, timeout=_ANSWER_S)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def call(
        self, method: str, *path: str, body: dict[str, Any] | None = None, wait_ms: int = 0
    ) -> dict[str, Any]:
        """One call.

        Args:
            method: HTTP's.
            path: Its parts, which may hold anything.
            body: What goes with it.
            wait_ms: How long the answer may be put off.

        Raises:
            NotReached: There was no answer, or it is not a manager's; WrongUrl where there could be none.
            NotDone: The answer was no.
        """
        url = "/".join([self._url.rstrip("/"), *(quote(part, safe="") for part in path)])
        try:
            answer = await self._client.request(
                method,
                url,
                json=body,
                params={"wait_ms": wait_ms} if wait_ms else None,
                timeout=_ANSWER_S + wait_ms / 1000,
            )
            told = msgspec.json.decode(answer.content, type=dict[str, Any])
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise WrongUrl(f"{self._url!r} is not where a manager is, as {DEFAULT_URL} would be: {error}") from error
        except httpx.ReadTimeout as error:
            late = f"{self._url}: no answer within {_ANSWER_S + wait_ms / 1000:g} s: what is there hangs, or is busy"
            raise NotReached(f"{late}, and may still do what it was asked") from error
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise NotReached(f"{self._url}: no manager answers: {why}; `ftharness pool serve` starts one") from error
        except ValueError:
            raise NotReached(f"{self._url}: what answers is no pool manager (status {answer.status_code})") from None
        if answer.is_success:
            return told
        said = told.get("error")
        if not (isinstance(said, dict) and {"code", "message"} <= said.keys() and "x-correlation-id" in answer.headers):
            raise NotReached(f"{self._url}: what answers is no pool manager (status {answer.status_code})")
        raise NotDone(said["message"], status=answer.status_code, code=said["code"], told=said)
