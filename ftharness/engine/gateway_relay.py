"""A request on whichever worker has it: migration, with the tokens that the client has.

The rules are those of the simulated frontend (``frontend_migration``), which are Dynamo's.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec

from ftharness.engine.frontend_log import FrontendLog
from ftharness.engine.frontend_migration import Policy
from ftharness.engine.frontend_request import Refusal
from ftharness.engine.gateway_progress import Progress
from ftharness.engine.gateway_request import Asked, Dialect, at_first, onward
from ftharness.engine.gateway_worker import Lost, Silent, Worker
from ftharness.engine.gateway_workers import Workers

_encode = msgspec.json.Encoder().encode


class Relay:
    """One request.

    Attributes:
        progress: How far its answer is.
        worker: Who has it, or None.
    """

    def __init__(
        self,
        asked: Asked,
        request_id: str,
        authorization: str | None,
        *,
        workers: Workers,
        dialect: Dialect,
        policy: Policy,
        log: FrontendLog,
        model: str,
    ) -> None:
        self.progress = Progress(asked, dialect)
        self.worker: Worker | None = None
        self._asked = asked
        self._request_id = request_id
        self._workers = workers
        self._dialect = dialect
        self._policy = policy
        self._log = log
        self._model = model
        self._context: int | None = None  # of the worker that had it last
        self._moves = 0
        self._lost: set[tuple[str, int]] = set()
        self._headers = {"content-type": "application/json", "x-request-id": request_id}
        if authorization is not None:
            self._headers["authorization"] = authorization

    async def chunks(self) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks of the answer, as the client is to get them, to the last one.

        Raises:
            Refusal: It failed.
            Declined: A worker does not take it, for what it is.
        """
        while not self.progress.ended:
            body = self._body()
            if body is None:
                for chunk in self.progress.end():
                    yield chunk
                return
            self.worker = await self._pick()
            try:
                async with aclosing(self._attempt(self.worker, *body)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            except Lost as lost:
                if not self.progress.ended:  # otherwise it owed nothing but the word that this was all
                    self._lose(self.worker, lost)
            finally:
                self.worker = None

    async def _attempt(self, worker: Worker, path: str, body: bytes) -> AsyncGenerator[dict[str, Any], None]:
        progress = self.progress
        async with aclosing(worker.ask(path, body, self._headers, self._policy.stream_timeout_s)) as events:
            async for event in events:
                for chunk in progress.take(event):
                    yield chunk
                if progress.cut:
                    return
        if not progress.ended:
            raise Lost(f"Disconnected: worker {worker.name} ended the stream without a finish reason")

    def _body(self) -> tuple[str, bytes] | None:
        """What to ask, and where; None: every token is there."""
        progress, asked = self.progress, self._asked
        # SGLang does not take an id that it has, and a frozen worker that thaws has it still.
        name = f"{self._request_id}.{self._moves}" if self._moves else self._request_id
        if not progress.began:
            return asked.path, _encode(at_first(asked, self._dialect, name))
        prompt, said = progress.prompt or [], len(progress.said)
        limit = asked.max_tokens(len(prompt), self._context)
        if limit is None:
            raise self._failed(500, "The request cannot move: its worker does not say how long an answer may be")
        if limit <= said:
            return None
        body = onward(asked, self._dialect, name, context=prompt + progress.said, said=said, remaining=limit - said)
        return "/v1/completions", _encode(body)

    async def _pick(self) -> Worker:
        worker = await self._workers.pick(self._lost)
        if worker is None:
            raise self._failed(503, f"Service temporarily unavailable: no worker for model {self._model}")
        self._log.routed(self._request_id, worker.name, self._moves)
        self._context = worker.context
        return worker

    def _lose(self, worker: Worker, lost: Lost) -> None:
        """The request goes on elsewhere, or fails.

        Raises:
            Refusal: It fails.
        """
        if isinstance(lost, Silent):
            self._log.stalled(self._request_id, worker.name, self._policy.stream_timeout_s or 0)
        self._lost.add((worker.name, worker.life))
        worker.doubt()
        progress, policy = self.progress, self._policy
        if self._moves >= policy.limit:
            self._log.exhausted(self._request_id, str(lost))
            raise self._failed(500, "Migration limit exhausted")
        if progress.began and progress.stays:
            self._log.exhausted(self._request_id, f"{lost}; it cannot move: {progress.stays}")
            raise self._failed(500, f"Its worker is lost, and the request cannot move: {progress.stays}")
        if policy.max_seq_len is not None and progress.length > policy.max_seq_len:
            self._log.too_long(self._request_id, progress.length, policy.max_seq_len)
            raise self._failed(
                500, f"Migration refused: {progress.length} tokens exceed the maximum of {policy.max_seq_len}"
            )
        self._moves += 1
        self._log.migrating(self._request_id, str(lost), ongoing=progress.began)
        progress.move()

    def _failed(self, status: int, message: str) -> Refusal:
        self._log.error(f"request failed request_id={self._request_id} status={status}: {message}")
        return Refusal(status, message)
