"""Migration: a request whose worker is lost goes on elsewhere, and takes with it every token that its client has.

The rules are Dynamo's: a request may move ``limit`` times, in mid-stream (``ongoing_request``) or before a worker took
it (``new_request``); one that has grown beyond ``max_seq_len`` stays and fails.
"""

import asyncio
from typing import NamedTuple, Protocol

from ftharness.engine.frontend_log import FrontendLog
from ftharness.engine.frontend_plane import Plane, WorkerLink

#: Seconds by which two planted bugs are late.
_SLOW_S = 3.0


class Policy(NamedTuple):
    """How a frontend migrates.

    Attributes:
        limit: Moves of one request.
        max_seq_len: Tokens (prompt and answer) beyond which a request does not move, or None.
        stream_timeout_s: Seconds without a token after which a worker counts as lost, or None: a frozen one stalls.
        bug: A planted bug's name, or nothing.
    """

    limit: int = 0
    max_seq_len: int | None = None
    stream_timeout_s: float | None = None
    bug: str = ""


class Receiver(Protocol):
    """Who wants the tokens of a generation."""

    def made(self, ids: list[int], reason: str | None, *, ended: bool) -> None:
        """Tokens for the client; with ``ended`` the last."""

    def failed(self, status: int, message: str) -> None:
        """Nothing more comes: what to tell the client."""


class Generation:
    """One choice of a request, on whichever worker has it.

    Attributes:
        generated: All ids that its client has so far.
    """

    def __init__(
        self,
        request_id: str,
        prompt_ids: list[int],
        max_tokens: int,
        seed: int,
        *,
        plane: Plane,
        policy: Policy,
        log: FrontendLog,
        receiver: Receiver,
    ) -> None:
        self.request_id = request_id
        self.generated: list[int] = []
        self._prompt_ids = prompt_ids
        self._max_tokens = max_tokens
        self._seed = seed
        self._plane = plane
        self._policy = policy
        self._log = log
        self._receiver = receiver
        self._worker: WorkerLink | None = None
        self._accepted = False
        self._migrations = 0
        self._dropping = False  # a planted bug's
        self._forgotten = 0  # another's
        self._heard = 0.0  # loop time at which the worker last said something
        self._timer: asyncio.TimerHandle | None = None

    @property
    def counted(self) -> int:
        """Tokens that the usage speaks of: all that its client has."""
        return len(self.generated) - self._forgotten

    def begin(self) -> None:
        """Gives it to the worker whose turn it is."""
        self._send(self._prompt_ids, self._max_tokens)

    def cancel(self, *, kill: bool) -> None:
        """Ends it on its worker. ``kill``: its client is gone; otherwise it had all it wanted."""
        worker = self._release()
        if worker is not None and self.request_id in worker.streams:
            worker.cancel(self.request_id, kill=kill)
            if kill:
                self._log.kill_sent(self.request_id, worker.name)

    def on_accepted(self) -> None:
        """Its worker has it."""
        self._accepted = True

    def on_tokens(self, ids: list[int], reason: str | None) -> None:
        """Its worker made more of it."""
        self.generated += ids
        if self._timer is not None:
            self._heard = asyncio.get_running_loop().time()
        ended = reason is not None
        if ended:
            self._release()
        if self._dropping:
            self._dropping, ids = False, ids[1:]
        if self._policy.bug == "no-finish-reason" and self._migrations:
            reason = None
        self._receiver.made(ids, reason, ended=ended)

    def on_disconnected(self, error: str) -> None:
        """Its worker is lost: it goes to another, or fails."""
        if self._release() is None:
            return  # another choice of its request was on that worker too, and has failed: so has this one
        policy = self._policy
        length = len(self._prompt_ids) + len(self.generated)
        if self._migrations >= policy.limit and policy.bug != "migrate-beyond-limit":
            self._log.exhausted(self.request_id, error)
            self._fail(418 if policy.bug == "wrong-status" else 500, "Migration limit exhausted")
        elif policy.max_seq_len is not None and length > policy.max_seq_len:
            self._log.too_long(self.request_id, length, policy.max_seq_len)
            self._fail(500, f"Migration refused: {length} tokens exceed the maximum of {policy.max_seq_len}")
        elif policy.bug == "give-up-quietly":
            self._receiver.made([], "length", ended=True)
        else:
            self._migrations += 1
            if policy.bug != "silent-migration":
                self._log.migrating(self.request_id, error, ongoing=self._accepted)
            self._migrate()

    def _migrate(self) -> None:
        context = self._prompt_ids + self.generated
        remaining = self._max_tokens - len(self.generated)
        if self._policy.bug == "wrong-context":
            context[-1] ^= 1
        if self._policy.bug == "restart-answer":
            context, remaining = self._prompt_ids, self._max_tokens
        if self._policy.bug == "duplicate-token":
            self._receiver.made(self.generated[-1:], None, ended=False)
        self._dropping = self._policy.bug == "drop-token"
        self._forgotten = len(self.generated) if self._policy.bug == "wrong-usage" else 0
        if self._policy.bug == ("slow-migration" if self.generated else "slow-retry"):
            asyncio.get_running_loop().call_later(_SLOW_S, self._send, context, remaining)
        else:
            self._send(context, remaining)

    def _send(self, context: list[int], remaining: int) -> None:
        worker = self._plane.pick(self.request_id)
        if worker is None:
            self._fail(503, f"Service temporarily unavailable: no worker for model {self._plane.model}")
            return
        self._worker, self._accepted = worker, False
        self._log.routed(self.request_id, worker.name, self._migrations)
        worker.generate(
            self.request_id,
            self,
            token_ids=context,
            max_tokens=remaining,
            seed=self._seed,
            attempt=self._migrations,
        )
        if self._policy.stream_timeout_s is not None:
            loop = asyncio.get_running_loop()
            self._heard = loop.time()
            self._timer = loop.call_at(self._heard + self._policy.stream_timeout_s, self._check)

    def _check(self) -> None:
        """The stream's deadline: if the worker spoke meanwhile there is a new one, otherwise it counts as lost."""
        worker, patience = self._worker, self._policy.stream_timeout_s
        if worker is None or patience is None:
            return
        loop = asyncio.get_running_loop()
        if loop.time() < self._heard + patience:
            self._timer = loop.call_at(self._heard + patience, self._check)
            return
        self._log.stalled(self.request_id, worker.name, patience)
        worker.cancel(self.request_id, kill=True)  # it acts on it if it ever thaws
        self.on_disconnected(f"Timeout: worker {worker.name} said nothing for {patience:g} s")

    def _release(self) -> WorkerLink | None:
        worker, self._worker = self._worker, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return worker

    def _fail(self, status: int, message: str) -> None:
        if self._policy.bug == "swallow-error":
            return
        self._log.error(f"request failed request_id={self.request_id} status={status}: {message}")
        self._receiver.failed(status, message)
