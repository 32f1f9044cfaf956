"""When a stack of Dynamo's serves: the model is listed, every worker is known, and the routes answer."""

from typing import TypeVar

import msgspec

from ftharness.process import ANSWER_S, Asked, http_get

_OK, _NO_ROUTE = 200, 404
_ROUTES = ("/v1/completions", "/v1/chat/completions")

T = TypeVar("T")


class _Instance(msgspec.Struct):
    endpoint: str


class _Health(msgspec.Struct):
    instances: list[_Instance]


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


class Serves(Asked):
    """The frontend would serve a request now, and could choose between all workers.

    A listed model is not enough: 1.4 opens a route after it lists the first model, and answers 404 until then. A GET of an
    open route is answered 405, and is no request to anybody.

    Args:
        url: The frontend's.
        model: The model's name.
        workers: How many serve it.
        exactly: Whether there may be no more: of engines that share a lock each one more is one too many.
    """

    def __init__(self, url: str, model: str, workers: int, *, exactly: bool = False) -> None:
        super().__init__()
        self._url = url
        self._model = model
        self._workers = workers
        self._exactly = exactly

    def __str__(self) -> str:
        """What is waited for, and what there is."""
        return f"{self._workers} workers of {self._model} at {self._url} (last answer: {self.seen})"

    async def holds(self) -> bool:
        """Whether workers, model and routes are there."""
        return await self._knows_workers() and await self._lists_model() and await self._has_routes()

    async def _knows_workers(self) -> bool:
        health = await self._answer("/health", _Health)
        count = sum(instance.endpoint == "generate" for instance in health.instances)
        self.seen = f"{count} workers"
        return count == self._workers if self._exactly else count >= self._workers

    async def _lists_model(self) -> bool:
        listed = [model.id for model in (await self._answer("/v1/models", _Models)).data]
        self.seen += f", models {listed}"
        return self._model in listed

    async def _has_routes(self) -> bool:
        for route in _ROUTES:
            status, _ = await http_get(self._url + route, deadline_s=ANSWER_S)
            if status == _NO_ROUTE:
                self.seen += f", no route {route}"
                return False
        return True

    async def _answer(self, path: str, kind: type[T]) -> T:
        status, body = await http_get(self._url + path, deadline_s=ANSWER_S)
        if status != _OK:
            raise OSError(f"GET {path}: HTTP status {status}")
        return msgspec.json.decode(body, type=kind)
