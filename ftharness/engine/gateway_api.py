"""The gateway's HTTP face: the endpoints of the simulated frontend, over real engine servers."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from ftharness.engine.frontend_http import RequestIds, application, health, models
from ftharness.engine.frontend_log import FrontendLog
from ftharness.engine.frontend_migration import Policy
from ftharness.engine.gateway_answer import Answer
from ftharness.engine.gateway_relay import Relay
from ftharness.engine.gateway_request import DIALECTS, parse
from ftharness.engine.gateway_workers import Workers


class Api:
    """The endpoints over some workers."""

    def __init__(self, workers: Workers, policy: Policy, log: FrontendLog, *, model: str, engine: str) -> None:
        self._workers = workers
        self._policy = policy
        self._log = log
        self._model = model
        self._engine = engine
        self._ids = RequestIds()

    def application(self) -> Starlette:
        """The routes."""
        return application(
            completions=self._completions,
            chat=self._chat,
            models=self._models,
            health=self._health,
            metrics=self._log.metrics,
        )

    async def _completions(self, request: Request) -> Response:
        return await self._answer(request, chat=False)

    async def _chat(self, request: Request) -> Response:
        return await self._answer(request, chat=True)

    async def _answer(self, request: Request, *, chat: bool) -> Response:
        dialect = DIALECTS[self._engine]
        asked = parse(await request.body(), dialect, chat=chat)
        request_id = self._ids.take(request)
        relay = Relay(
            asked,
            request_id,
            request.headers.get("authorization"),
            workers=self._workers,
            dialect=dialect,
            policy=self._policy,
            log=self._log,
            model=self._model,
        )
        return Answer(asked, request_id, relay, self._log, self._ids.over)

    async def _models(self, request: Request) -> Response:
        del request
        return models(self._model, serves=self._workers.serve)

    async def _health(self, request: Request) -> Response:
        del request
        instances = [
            {
                "worker": worker.name,
                "role": "aggregated",
                "engine": self._engine,
                "endpoint": "generate",
                "model": self._model,
                "running": worker.running,
                "draining": not worker.serves,
            }
            for worker in self._workers.here()
        ]
        return health(instances, serves=self._workers.serve)
