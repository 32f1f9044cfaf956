"""The HTTP face: OpenAI's endpoints, health and metrics, as a starlette application."""

import re
import uuid

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ftharness.engine.frontend_answer import Answer, Choice
from ftharness.engine.frontend_format import Format
from ftharness.engine.frontend_log import FrontendLog
from ftharness.engine.frontend_migration import Generation, Policy
from ftharness.engine.frontend_plane import Plane
from ftharness.engine.frontend_request import Ask, Refusal, parse_chat, parse_completion
from ftharness.engine.tokens import choice_seed

#: A client's X-Request-Id goes into log lines: nothing that could forge one.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Api:
    """The endpoints over one plane."""

    def __init__(self, plane: Plane, policy: Policy, log: FrontendLog, seed: int) -> None:
        self._plane = plane
        self._policy = policy
        self._log = log
        self._seed = seed
        self._created = 1_700_000_000  # a model's birthday; it is not asked for
        self._active: set[str] = set()

    def application(self) -> Starlette:
        """The routes."""
        return Starlette(
            routes=[
                Route("/v1/completions", self._completions, methods=["POST"]),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/health", self._health),
                Route("/metrics", self._metrics),
            ],
            exception_handlers={Refusal: _refused, HTTPException: _http_error},
        )

    async def _completions(self, request: Request) -> Response:
        return self._answer(request, parse_completion(await request.body(), self._plane.model))

    async def _chat(self, request: Request) -> Response:
        return self._answer(request, parse_chat(await request.body(), self._plane.model))

    def _answer(self, request: Request, ask: Ask) -> Response:
        request_id = self._id_for(request)
        seed = self._seed if ask.seed is None else ask.seed

        def begin(index: int, choice: Choice) -> Generation:
            return Generation(
                request_id if ask.n == 1 else f"{request_id}-{index}",
                ask.prompt_ids,
                ask.max_tokens,
                choice_seed(seed, index),
                plane=self._plane,
                policy=self._policy,
                log=self._log,
                receiver=choice,
            )

        form = Format(ask, request_id, self._plane.model)
        self._active.add(request_id)
        return Answer(ask, request_id, form, self._log, begin, self._active.discard)

    def _id_for(self, request: Request) -> str:
        """The client's X-Request-Id if it is sound, else one of ours. One that is in use gets an ending."""
        given = request.headers.get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(given):
            return str(uuid.uuid4())
        return given if given not in self._active else f"{given}.{uuid.uuid4().hex[:8]}"

    async def _models(self, request: Request) -> Response:
        del request
        model = {"id": self._plane.model, "object": "model", "created": self._created, "owned_by": "ftharness"}
        return JSONResponse({"object": "list", "data": [model] if self._serves() else []})

    async def _health(self, request: Request) -> Response:
        del request
        instances = [
            {
                "worker": worker.name,
                "role": worker.role,
                "engine": worker.engine,
                "endpoint": "generate",
                "model": self._plane.model,
                "running": len(worker.streams),
                "draining": worker.draining,
            }
            for worker in sorted(self._plane.workers, key=lambda worker: worker.name)
        ]
        serves = self._serves()
        status = "healthy" if serves else "unhealthy"
        return JSONResponse({"status": status, "instances": instances}, 200 if serves else 503)

    def _serves(self) -> bool:
        """Whether there is a worker of each role that a request needs, be it one that drains."""
        strategy = self._policy.strategy
        return {strategy.first, strategy.then} - {""} <= {worker.role for worker in self._plane.workers}

    async def _metrics(self, request: Request) -> Response:
        del request
        return Response(self._log.metrics(), media_type="text/plain; version=0.0.4")


async def _refused(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, Refusal)
    return JSONResponse(error.body(), error.status)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    refusal = Refusal(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
    return JSONResponse(refusal.body(), error.status_code)
