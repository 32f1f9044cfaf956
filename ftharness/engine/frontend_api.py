"""The HTTP face: OpenAI's endpoints, health and metrics, as a starlette application."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from ftharness.engine.frontend_answer import Answer, Choice
from ftharness.engine.frontend_format import Format
from ftharness.engine.frontend_http import RequestIds, application, health, models
from ftharness.engine.frontend_log import FrontendLog
from ftharness.engine.frontend_migration import Generation, Policy
from ftharness.engine.frontend_plane import Plane
from ftharness.engine.frontend_request import Ask, parse_chat, parse_completion
from ftharness.engine.tokens import choice_seed


class Api:
    """The endpoints over one plane."""

    def __init__(self, plane: Plane, policy: Policy, log: FrontendLog, seed: int) -> None:
        self._plane = plane
        self._policy = policy
        self._log = log
        self._seed = seed
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
        return self._answer(request, parse_completion(await request.body(), self._plane.model))

    async def _chat(self, request: Request) -> Response:
        return self._answer(request, parse_chat(await request.body(), self._plane.model))

    def _answer(self, request: Request, ask: Ask) -> Response:
        request_id = self._ids.take(request)
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
        return Answer(ask, request_id, form, self._log, begin, self._ids.over)

    async def _models(self, request: Request) -> Response:
        del request
        return models(self._plane.model, serves=self._serves())

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
        return health(instances, serves=self._serves(), bug=self._policy.bug)

    def _serves(self) -> bool:
        """Whether there is a worker of each role that a request needs, be it one that drains."""
        strategy = self._policy.strategy
        return {strategy.first, strategy.then} - {""} <= {worker.role for worker in self._plane.workers}
