"""Who may call the manager, and what its token may be."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ftharness.pool.auth import SHORTEST, Guarded, TokenError, check_exposure, is_loopback, read_token
from ftharness.pool.correlation import Correlated, correlation_id

TOKEN = "0123456789abcdef-right"  # noqa: S105 - of these tests alone

Ask = Callable[..., Awaitable[httpx.Response]]


async def _who(request: Request) -> Response:
    return PlainTextResponse(correlation_id.get())


def _client(token: str) -> httpx.AsyncClient:
    app = Starlette(routes=[Route("/health", _who), Route("/v1/pools", _who, methods=["GET", "POST"])])
    transport = httpx.ASGITransport(app=Correlated(Guarded(app, token)))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:80")


@pytest.fixture
async def ask() -> Any:
    """``ask(path, token=…, **headers)``: the answer of a manager with that token."""

    async def get(path: str = "/v1/pools", *, token: str = TOKEN, headers: Any = None) -> httpx.Response:
        async with _client(token) as client:
            return await client.get(path, headers=headers)

    return get


@pytest.mark.parametrize(
    "said",
    [
        None,
        "",
        TOKEN,
        f"Basic {TOKEN}",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN.upper()}",
        f"Bearer {TOKEN} {TOKEN}",
        "Bearer ünïcode-tökens-äre-nøne".encode(),
    ],
)
async def test_without_the_token_nothing_is_answered(ask: Ask, said: str | bytes | None) -> None:
    """None, another, a part of it, in another scheme; and the answer says what is wanted, not what it is."""
    answer = await ask(headers=None if said is None else {"authorization": said})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["code"] == "unauthorized"
    assert TOKEN not in answer.text


async def test_with_the_token_everything_is(ask: Ask) -> None:
    """The scheme in any case (RFC 9110, 11.1); from a page of a browser, too: it has the token."""
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert (await ask(headers={"authorization": f"{scheme} {TOKEN}"})).status_code == 200
    headers = {"authorization": f"Bearer {TOKEN}", "origin": "https://a.example", "host": "pool.example"}
    assert (await ask(headers=headers)).status_code == 200


async def test_a_token_that_is_said_twice_is_none(ask: Ask) -> None:
    """What stands before the manager may have checked the other one."""
    twice = [("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer other")]
    assert (await ask(headers=twice)).status_code == 401


async def test_whether_the_manager_is_up_needs_no_token(ask: Ask) -> None:
    """Whoever starts it has to see that it runs, and has no token to give. Only that very path."""
    assert (await ask("/health")).status_code == 200
    assert (await ask("/health/")).status_code == 401


@pytest.mark.parametrize(
    "headers, status",
    [
        ({}, 200),
        ({"host": "localhost:8650"}, 200),
        ({"host": "[::1]:8650"}, 200),
        ({"host": "127.0.0.2"}, 200),
        ({"host": "pool.example:8650"}, 403),
        ({"host": "127.0.0.1.pool.example"}, 403),
        ({"host": ""}, 403),
        ({"origin": "https://a.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
async def test_without_a_token_no_page_of_a_browser_is_answered(ask: Ask, headers: dict[str, str], status: int) -> None:
    """Neither by its own origin, nor by a name that was made to point here (DNS rebinding)."""
    assert (await ask(token="", headers=headers)).status_code == status


@pytest.mark.parametrize(
    "host, loopback",
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),  # noqa: S104 - it is what is told apart
        ("::", False),
        ("", False),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("pool.example", False),
        ("127.1", False),
    ],
)
def test_beyond_this_machine_nobody_listens_without_a_token(host: str, loopback: bool) -> None:
    """A name could be any address, so it counts as elsewhere; with a token every host may be."""
    assert is_loopback(host) == loopback
    check_exposure(host, TOKEN)
    if loopback:
        check_exposure(host, "")
    else:
        with pytest.raises(TokenError, match="takes a token: set token_file or token_env"):
            check_exposure(host, "")


def test_the_token_is_in_a_file_or_a_variable(tmp_path: Path) -> None:
    """The first line of the one, or the whole of the other; neither place: none."""
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\nthe rest is a remark\n")
    assert read_token(str(file)) == read_token(variable="POOL_TOKEN", environment={"POOL_TOKEN": TOKEN}) == TOKEN
    assert read_token() == ""


@pytest.mark.parametrize("text", ["", "short", "x" * (SHORTEST - 1), "with spaces in between", "töken" * 8])
def test_a_token_that_protects_nothing_is_refused(tmp_path: Path, text: str) -> None:
    """Empty, short, or not what a header can carry; what it was is not told."""
    file = tmp_path / "token"
    file.write_text(text)
    with pytest.raises(TokenError) as refused:
        read_token(str(file))
    assert not text or text not in str(refused.value)
    with pytest.raises(TokenError, match="POOL_TOKEN"):
        read_token(variable="POOL_TOKEN", environment={"POOL_TOKEN": text})


def test_a_token_that_is_not_there_is_told(tmp_path: Path) -> None:
    """By the file's, or the variable's, name."""
    with pytest.raises(TokenError, match="nothing: the token cannot be read: No such file"):
        read_token(str(tmp_path / "nothing"))
    with pytest.raises(TokenError, match="POOL_TOKEN, which should hold the token, is not set"):
        read_token(variable="POOL_TOKEN", environment={})


@pytest.mark.parametrize("said", ["a", "x" * 128, 'id"{}\\', "0a1b:c/d"])
async def test_a_sound_correlation_id_is_echoed(ask: Ask, said: str) -> None:
    """And it is the call's own, in everything that the call does; a refused call has it, too."""
    answer = await ask(headers={"authorization": f"Bearer {TOKEN}", "x-correlation-id": said})
    assert answer.text == answer.headers["x-correlation-id"] == said
    assert (await ask(headers={"x-correlation-id": said})).headers["x-correlation-id"] == said


@pytest.mark.parametrize("said", [None, "", "x" * 129, "a b", "a\tb", b"\xc3\xbc", b"a\x00b", ["a", "b"]])
async def test_one_that_could_do_harm_is_replaced(ask: Ask, said: Any) -> None:
    """Too long, not printable, or two of them: an id is made, another one each time."""
    values = said if isinstance(said, list) else [] if said is None else [said]
    headers = [("authorization", f"Bearer {TOKEN}"), *(("x-correlation-id", value) for value in values)]
    made = [(await ask(headers=headers)).headers["x-correlation-id"] for _ in range(2)]
    assert len({*made}) == 2
    assert all(len(one) == 36 for one in made)
