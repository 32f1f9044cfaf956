"""The commands ``ftharness pool …``: a manager of engine pools, and what is asked of one.

Exit status: 0 done, and of ``status`` all pools are ready; 1 the manager says no, it was tried and failed, or a pool is not
ready; 2 the call or a file is wrong; 3 no manager answers, or something is missing here; 130 interrupted. ``lease … COMMAND``
ends with the command's own.
"""

import math
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from ftharness.answers import FAILED, INTERRUPTED, UNKNOWN, WRONG, die, said
from ftharness.pool_address import DEFAULT_URL, PORT, TOKEN_FILE, URL

if TYPE_CHECKING:
    from ftharness.pool.calls import Calls, NotDone

pool_app = typer.Typer(
    help="Engine pools: engines that are kept ready, and leased. docs/pool.md says more.",
    epilog="Exit status: 0 done, 1 the manager says no or it failed, 2 the call is wrong, 3 no manager answers, 130 "
    "interrupted; of `lease … -- COMMAND` the command's own.",
    no_args_is_help=True,
)

#: An operation is asked for its end again and again, as an answer is put off for so long at most.
_WAIT_MS = 30_000
_WRONG_CODES = (400, 401, 403, 404, 405, 413, 415, 422)
T = TypeVar("T")

UrlOption = Annotated[str, typer.Option("--url", envvar=URL, help="Where the manager is.", show_default=DEFAULT_URL)]
TokenOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        envvar=TOKEN_FILE,
        help="Whose first line is the manager's bearer token.",
    ),
]
PoolArgument = Annotated[str, typer.Argument(metavar="POOL", help="A pool's id.")]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON, whole.")]
WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="For its end; else only begin it.")]


def _number(seconds: float | None) -> float | None:
    """What is meant as a time: ``nan`` and ``inf`` are numbers to a parser, too."""
    if seconds is not None and not math.isfinite(seconds):
        raise typer.BadParameter(f"{seconds} is no time in seconds")
    return seconds


@pool_app.command("serve")
def serve(
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="The manager's TOML file.")],
    host: Annotated[str | None, typer.Option(help="Where it listens [default: as the file says, 127.0.0.1].")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help=f"0: any [default: as the file says; {PORT}].")
    ] = None,
) -> None:
    """Keep the pools of a file until SIGTERM, SIGINT or a closed terminal; prints its URL, and logs JSON on standard error."""
    import asyncio

    import msgspec

    from ftharness.pool.adoption import StateError
    from ftharness.pool.config_file import load_config
    from ftharness.pool.masks import MaskError
    from ftharness.pool.slot import SlotHeld

    try:
        from ftharness.pool.serving import CannotServe, serve
    except ModuleNotFoundError as error:
        die(f"{error.name} is missing: pip install 'ftharness[pool]'", UNKNOWN)
    with said():
        told = load_config(config)
        told = msgspec.structs.replace(
            told, host=told.host if host is None else host, port=told.port if port is None else port
        )
        try:
            ended = asyncio.run(serve(told, on_url=typer.echo))
        except MaskError as error:
            die(error)
        except (StateError, SlotHeld) as error:
            die(error, UNKNOWN)
        except CannotServe as error:
            die(error, FAILED)
    if ended != "SIGTERM":
        raise typer.Exit(INTERRUPTED)


@pool_app.command("status")
def status(
    pool: Annotated[str, typer.Argument(metavar="[POOL]", help="One of them, engine by engine.")] = "",
    json: JsonOption = False,
    url: UrlOption = "",
    token_file: TokenOption = None,
) -> None:
    """What the pools are at; ends with 1 where one is not ready, or takes no leases."""
    import msgspec

    async def ask(calls: "Calls") -> list[dict[str, Any]]:
        names = [pool] if pool else [one["id"] for one in (await calls.call("GET", "v1", "pools"))["pools"]]
        return [await calls.call("GET", "v1", "pools", name, "health") for name in names]

    found = _asked(url, token_file, ask)
    if json:
        typer.echo(msgspec.json.encode(found[0] if pool else found).decode())
    else:
        for one in found:
            typer.echo(_line(one))
            for engine in one["engines"] if pool else ():
                typer.echo(_engine_line(engine))
    if not all(one["ready"] and not one["draining"] for one in found):
        raise typer.Exit(FAILED)


@pool_app.command("preload")
def preload(pool: PoolArgument, wait: WaitOption = True, url: UrlOption = "", token_file: TokenOption = None) -> None:
    """Stage a pool's model and start its engines."""
    _operate(url, token_file, pool, "preload", wait=wait)


@pool_app.command("drain")
def drain(
    pool: PoolArgument,
    deadline_s: Annotated[
        float | None,
        typer.Option("--deadline-s", min=0, callback=_number, help="For leases to end [default: as configured]."),
    ] = None,
    on_timeout: Annotated[
        str, typer.Option("--on-timeout", metavar="stop|abort", help="When some have not: stop them, or serve on.")
    ] = "stop",
    wait: WaitOption = True,
    url: UrlOption = "",
    token_file: TokenOption = None,
) -> None:
    """Grant no more leases, wait for those that there are, and stop the engines."""
    deadline = {} if deadline_s is None else {"deadline_ms": round(deadline_s * 1000)}
    _operate(url, token_file, pool, "drain", body={"on_timeout": on_timeout, **deadline}, wait=wait)


@pool_app.command("resume")
def resume(pool: PoolArgument, wait: WaitOption = True, url: UrlOption = "", token_file: TokenOption = None) -> None:
    """Grant leases again, after a drain or in the middle of one."""
    _operate(url, token_file, pool, "resume", wait=wait)


@pool_app.command("reload")
def reload(
    pool: PoolArgument,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="As in the configuration; @sha256:… behind it is its digest.")
    ],
    wait: WaitOption = True,
    url: UrlOption = "",
    token_file: TokenOption = None,
) -> None:
    """Serve another model; where its engine fails, the old one comes back, and the status is 1."""
    _operate(url, token_file, pool, "reload", body={"new_model_ref": model}, wait=wait)


@pool_app.command("reset-breaker")
def reset_breaker(
    pool: PoolArgument, wait: WaitOption = True, url: UrlOption = "", token_file: TokenOption = None
) -> None:
    """Allow restarts again after a storm of them."""
    _operate(url, token_file, pool, "breaker", "reset", wait=wait)


@pool_app.command("lease")
def lease(
    pool: PoolArgument,
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- COMMAND...]", help="Holds the lease while it runs; finds it in FTHARNESS_LEASE_URL."
        ),
    ] = None,
    ttl_s: Annotated[
        float | None,
        typer.Option(
            "--ttl-s", min=0.001, callback=_number, help="How long it lasts unrenewed [default: as configured]."
        ),
    ] = None,
    holder: Annotated[str, typer.Option(help="A name for people who read logs.")] = "",
    url: UrlOption = "",
    token_file: TokenOption = None,
) -> None:
    """Lease a slot of an engine; with a command for as long as that runs, else print the lease as JSON."""
    import msgspec

    body: dict[str, Any] = {"holder": holder or (f"{command[0]} ({os.getpid()})"[:256] if command else "")}
    if ttl_s is not None:
        body["ttl_ms"] = round(ttl_s * 1000)

    async def ask(calls: "Calls") -> int:
        from ftharness.pool.lease_command import LeaseLost, hold

        granted = await calls.call("POST", "v1", "pools", pool, "leases", body=body)
        lasts_s = (granted["expires_ms"] - granted["granted_ms"]) / 1000
        if ttl_s is not None and lasts_s < ttl_s - 1:
            typer.echo(f"ftharness: it lasts {lasts_s:g} s, the most that this pool grants", err=True)
        if not command:
            typer.echo(msgspec.json.encode(granted).decode())
            return 0
        try:
            return await hold(calls, granted, command, lambda line: typer.echo(f"ftharness: {line}", err=True))
        except LeaseLost:
            return FAILED
        except OSError as error:
            die(f"{command[0]}: {error.strerror}", WRONG)

    raise typer.Exit(_asked(url, token_file, ask))


@pool_app.command("release")
def release(
    pool: PoolArgument,
    lease_id: Annotated[str, typer.Argument(metavar="LEASE", help="Its id.")],
    url: UrlOption = "",
    token_file: TokenOption = None,
) -> None:
    """Give a lease back; ends with 1 where it had ended otherwise before."""

    async def ask(calls: "Calls") -> dict[str, Any]:
        return await calls.call("DELETE", "v1", "pools", pool, "leases", lease_id)

    told = _asked(url, token_file, ask)
    typer.echo(": ".join(filter(None, (told["state"], told["reason"]))))
    if told["state"] != "released":
        raise typer.Exit(FAILED)


def _operate(
    url: str, token_file: Path | None, pool: str, *path: str, body: dict[str, Any] | None = None, wait: bool
) -> None:
    """Begin an operation, and follow it to its end."""

    async def ask(calls: "Calls") -> dict[str, Any]:
        told = await calls.call("POST", "v1", "pools", pool, *path, body=body)
        while wait and told["state"] == "running":
            told = await calls.call("GET", "v1", "operations", told["id"], wait_ms=_WAIT_MS)
        return told

    told = _asked(url, token_file, ask)
    more = told["detail"] or told["id"]
    typer.echo(f"{told['kind']} {told['pool_id']}: {told['state']}" + (f" ({more})" if more != told["state"] else ""))
    if told["state"] == "failed":
        die(told["error"], FAILED)


def _asked(url: str, token_file: Path | None, ask: "Callable[[Calls], Coroutine[Any, Any, T]]") -> T:
    """What a manager answers; everything that can go wrong becomes a sentence and a status."""
    import asyncio

    from ftharness.pool.auth import TokenError, read_token
    from ftharness.pool.calls import Calls, NotDone, NotReached, WrongUrl

    async def with_calls() -> T:
        async with Calls(url or DEFAULT_URL, token) as calls:
            return await ask(calls)

    try:
        token = read_token(str(token_file or ""))
        return asyncio.run(with_calls())
    except (TokenError, WrongUrl) as error:
        die(error)
    except NotReached as error:
        die(error, UNKNOWN)
    except NotDone as error:
        _not_done(error)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _not_done(error: "NotDone") -> NoReturn:
    hint = f"; --token-file, or {TOKEN_FILE}, says where it is" if error.code == "unauthorized" else ""
    die(f"{error}{hint}", WRONG if error.status in _WRONG_CODES else FAILED)


def _line(one: dict[str, Any]) -> str:
    state = _draining(one) if one["draining"] else "ready" if one["ready"] else "not ready"
    what = " ".join(filter(None, (one["engine"], one["engine_version"], one["model_id"])))
    free = f"{one['slots_free']} of {one['slots_total']} slots free"
    leases = f"{one['active_leases']} leased"
    error = f"  last error: {one['last_error']}" if one["last_error"] else ""
    return f"{one['id']}  {state}  {what}  {free}, {leases}  {one['restarts']} restarts{error}"


def _draining(one: dict[str, Any]) -> str:
    if any(engine["state"] != "stopped" for engine in one["engines"]):
        return "draining"
    return f"drained, until `ftharness pool resume {one['id']}`"


def _engine_line(engine: dict[str, Any]) -> str:
    backoff = f"  starts again in {engine['backoff_ms'] / 1000:g} s" if engine["backoff_ms"] else ""
    reason = f"  {engine['reason']}" if engine["reason"] else ""
    return f"  {engine['id']}  {engine['state']}  {engine['url'] or '-'}  {engine['active_leases']} leased{backoff}{reason}"
