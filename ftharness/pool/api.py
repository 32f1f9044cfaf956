"""The HTTP API over a manager: the handlers of :mod:`~ftharness.pool.endpoints`."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from ftharness import __version__
from ftharness.pool.auth import Guarded
from ftharness.pool.correlation import Correlated
from ftharness.pool.endpoints import (
    ENDPOINTS,
    LONGEST_WAIT_MS,
    Acquire,
    Capabilities,
    Drain,
    Health,
    PoolCapabilities,
    PoolEntry,
    Pools,
    Reload,
    Renew,
)
from ftharness.pool.lease_news import LeaseNews
from ftharness.pool.leases import Lease, LeaseEnded, NotKept, UnknownLease
from ftharness.pool.log_events import Log
from ftharness.pool.manager import Manager
from ftharness.pool.metrics import PoolMetrics
from ftharness.pool.openapi import document
from ftharness.pool.operations import Busy, Operation, UnknownOperation
from ftharness.pool.recorded import CALL, Recorded
from ftharness.pool.refusals import Refusal, refuse
from ftharness.pool.registry import Refused, UnknownPool
from ftharness.pool.without_secrets import without_secrets
from ftharness.process import Redactor

#: Bytes of a body, at most: those that there are have some hundred.
_LONGEST_BODY: Final = 64 * 1024
_JSON: Final = "application/json"
_PROMETHEUS: Final = "text/plain; version=0.0.4"

_Handler = Callable[[Request], Awaitable[Response]]
_Body = TypeVar("_Body", Acquire, Drain, Reload, Renew)


class Api:
    """The calls of one manager.

    Args:
        manager: Whose.
        metrics: Its metrics.
        log: Its log.
        redactor: Knows the secrets.
        token: The bearer token; "": none.
    """

    def __init__(
        self, manager: Manager, *, metrics: PoolMetrics, log: Log, redactor: Redactor, token: str = ""
    ) -> None:
        self._manager = manager
        self._registry = manager.registry
        self._metrics = metrics
        self._log = log
        self._redactor = redactor
        self._token = token
        self._news = LeaseNews(manager.registry)
        self._longest_s = {pool.id: pool.config.lease_ttl_max_s for pool in manager.registry.pools()}
        pools = [pool.id for pool in self._registry.pools()]
        self._document = msgspec.json.encode(document(__version__, pools, guarded=bool(token)))

    def application(self) -> ASGIApp:
        """What a server is given."""
        by_path: dict[str, dict[str, tuple[str, _Handler]]] = {}
        for endpoint in ENDPOINTS:
            handler: _Handler = getattr(self, f"_{endpoint.name}")
            by_path.setdefault(endpoint.path, {})[endpoint.method] = endpoint.name, handler
        # One route a path, so that a method that is not among its own is answered with all that are.
        routes = [Route(path, _dispatch(of_path), methods=list(of_path)) for path, of_path in by_path.items()]
        app = Starlette(
            routes=routes,
            exception_handlers={
                Refusal: _refused,
                UnknownPool: _unknown_pool,
                Busy: _busy,
                HTTPException: _http_error,
                Exception: _mistake,
            },
        )
        app.router.redirect_slashes = False
        return Correlated(Recorded(Guarded(app, self._token), self._metrics, self._log))

    def close(self) -> None:
        """Whoever waits is answered now: the manager ends."""
        self._news.close()
        self._manager.operations.let_go()

    # Leases.

    async def _acquire(self, request: Request) -> Response:
        pool_id = request.path_params["pool_id"]
        wanted = await _body(request, Acquire)
        try:
            ttl_s = self._ttl_s(pool_id, wanted.ttl_ms)
            lease = self._registry.acquire(pool_id, holder=wanted.holder, ttl_s=ttl_s)
        except Refused as refused:
            status, code = (404, "unknown_pool") if refused.reason == "unknown" else (409, refused.reason)
            raise Refusal(status, code, str(refused), pool_id=pool_id) from None
        return _answer(lease, 201, {"location": f"/v1/pools/{pool_id}/leases/{lease.id}"})

    async def _release(self, request: Request) -> Response:
        return _answer(self._registry.release(self._lease_of(request).id))

    async def _renew(self, request: Request) -> Response:
        wanted = await _body(request, Renew)
        lease = self._lease_of(request)
        try:
            return _answer(self._registry.renew(lease.id, self._ttl_s(lease.pool_id, wanted.ttl_ms)))
        except LeaseEnded as ended:
            raise Refusal(409, f"lease_{ended.lease.state}", str(ended), lease=ended.lease) from None
        except NotKept as error:
            raise Refusal(409, "not_kept", f"it is not renewed: {error}", lease=lease) from None

    async def _lease(self, request: Request) -> Response:
        wait_s = _wait_s(request)
        lease = self._lease_of(request)
        return _answer(await self._news.until_over(lease.id, wait_s) if wait_s else lease)

    def _ttl_s(self, pool_id: str, wanted_ms: float | None) -> float | None:
        """No longer than the pool grants: its answer says until when."""
        return None if wanted_ms is None else min(wanted_ms / 1000, self._longest_s.get(pool_id, wanted_ms))

    def _lease_of(self, request: Request) -> Lease:
        """The lease of a path, which names its pool, too."""
        pool_id, lease_id = request.path_params["pool_id"], request.path_params["lease_id"]
        self._registry.pool(pool_id)
        try:
            lease = self._registry.lease(lease_id)
        except UnknownLease as error:
            raise Refusal(404, "unknown_lease", str(error.args[0]), pool_id=pool_id) from None
        if lease.pool_id != pool_id:
            raise Refusal(404, "unknown_lease", f"lease {lease_id!r} is not of pool {pool_id!r}", pool_id=pool_id)
        return lease

    # What there is.

    async def _health(self, request: Request) -> Response:
        del request
        return _answer(Health(live=True))

    async def _pools(self, request: Request) -> Response:
        del request
        entries = [
            PoolEntry(
                id=pool.id,
                live=True,
                ready=pool.ready,
                draining=pool.draining,
                summary=self._registry.summary(pool.id),
            )
            for pool in self._registry.pools()
        ]
        return _answer(Pools(entries))

    async def _pool_health(self, request: Request) -> Response:
        return self._clean(self._registry.pool_health(request.path_params["pool_id"]))

    async def _capabilities(self, request: Request) -> Response:
        del request
        config = self._manager.config
        pools = [
            PoolCapabilities(
                id=pool.id,
                engine=pool.config.engine,
                engine_version=pool.engine_version or None,
                model_id=pool.model_id or None,
                slots_total=pool.slots_total,
                lease_ttl_max_ms=round(pool.config.lease_ttl_max_s * 1000),
                supports=pool.supports,
            )
            for pool in self._registry.pools()
        ]
        told = Capabilities(
            version=__version__,
            calls=[f"{endpoint.method} {endpoint.path}" for endpoint in ENDPOINTS],
            fail_mode=config.fail_mode,
            engines_survive=config.engines_survive,
            longest_wait_ms=LONGEST_WAIT_MS,
            pools=pools,
        )
        return _answer(told)

    async def _metrics_page(self, request: Request) -> Response:
        del request
        return Response(self._metrics.text(), media_type=_PROMETHEUS)

    async def _openapi(self, request: Request) -> Response:
        del request
        return Response(self._document, media_type=_JSON)

    # What is begun, and followed.

    async def _preload(self, request: Request) -> Response:
        return self._begun(self._manager.preload(request.path_params["pool_id"]))

    async def _drain(self, request: Request) -> Response:
        wanted = await _body(request, Drain)
        pool_id, deadline_s = request.path_params["pool_id"], _seconds(wanted.deadline_ms)
        return self._begun(self._manager.drain(pool_id, deadline_s, on_timeout=wanted.on_timeout))

    async def _resume(self, request: Request) -> Response:
        return self._begun(self._manager.resume(request.path_params["pool_id"]))

    async def _reload(self, request: Request) -> Response:
        wanted = await _body(request, Reload)
        try:
            return self._begun(self._manager.reload(request.path_params["pool_id"], wanted.new_model_ref))
        except ValueError as error:
            raise Refusal(422, "invalid", f"new_model_ref: {error}") from None

    async def _reset_breaker(self, request: Request) -> Response:
        return self._begun(self._manager.reset_breaker(request.path_params["pool_id"]))

    async def _operation(self, request: Request) -> Response:
        operation_id, wait_s = request.path_params["operation_id"], _wait_s(request)
        try:
            operation = self._manager.operation(operation_id)
            if wait_s and operation.state == "running":
                operation = await self._manager.operations.until_over(operation_id, wait_s)
        except UnknownOperation as error:
            raise Refusal(404, "unknown_operation", str(error.args[0]), operation=operation_id) from None
        return self._clean(operation)

    def _begun(self, operation: Operation) -> Response:
        return self._clean(operation, 202, {"location": f"/v1/operations/{operation.id}"})

    def _clean(self, told: msgspec.Struct, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
        """An answer that holds what engines said."""
        return _answer(without_secrets(msgspec.to_builtins(told), self._redactor), status, headers)


def _dispatch(handlers: Mapping[str, tuple[str, _Handler]]) -> _Handler:
    async def endpoint(request: Request) -> Response:
        name, handler = handlers["GET" if request.method == "HEAD" else request.method]
        request.scope[CALL] = name
        return await handler(request)

    return endpoint


def _answer(told: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(told), status, headers=headers, media_type=_JSON)


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _wait_s(request: Request) -> float:
    said = request.query_params.get("wait_ms", "0")
    if not (said.isascii() and said.isdigit() and len(said) < 10 and int(said) <= LONGEST_WAIT_MS):  # noqa: PLR2004 - before int() reads it
        raise Refusal(422, "invalid", f"wait_ms: a whole number, at most {LONGEST_WAIT_MS}")
    return int(said) / 1000


async def _body(request: Request, kind: type[_Body]) -> _Body:
    """The body as ``kind``; where there is none, as if it were empty.

    Raises:
        Refusal: It is too long, not JSON, or cannot be meant.
    """
    data = await _read(request)
    if data and not _is_json(request.headers.get("content-type", "")):
        raise Refusal(415, "not_json", f"the Content-Type of a body is {_JSON}")
    try:
        return msgspec.json.decode(data or b"{}", type=kind)
    except msgspec.ValidationError as error:
        raise Refusal(422, "invalid", str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, "not_json", f"the body is not JSON: {error}") from None


async def _read(request: Request) -> bytes:
    data = b""
    try:
        async for piece in request.stream():
            data += piece
            if len(data) > _LONGEST_BODY:
                raise Refusal(413, "too_long", f"a body has {_LONGEST_BODY} bytes at most")
    except ClientDisconnect:  # nobody reads that, but in the log and the metrics it is no mistake of ours
        raise Refusal(400, "not_json", "the body did not come whole") from None
    return data


def _is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == _JSON


async def _refused(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, Refusal)
    return refuse(error)


async def _unknown_pool(request: Request, error: Exception) -> Response:
    return refuse(Refusal(404, "unknown_pool", str(error.args[0]), pool_id=request.path_params["pool_id"]))


async def _busy(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, Busy)
    operation = error.operation
    return refuse(Refusal(409, "busy", str(error), pool_id=operation.pool_id, operation=operation.id))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = "not_allowed" if error.status_code == 405 else "not_found" if error.status_code == 404 else "refused"  # noqa: PLR2004 - HTTP's
    message = f"{request.method} {request.url.path}: {error.detail}"
    return refuse(Refusal(error.status_code, code, message, headers=error.headers))


async def _mistake(request: Request, error: Exception) -> Response:
    del request, error
    return refuse(Refusal(500, "mistake", "a mistake of the manager's own; its log has it under this correlation id"))
