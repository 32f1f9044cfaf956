"""Migration: a request whose worker is lost goes on elsewhere, and takes with it every token that its client has.

The rules are Dynamo's: a request may move ``limit`` times, in mid-stream (``ongoing_request``) or before a worker took
it (``new_request``); one that has grown beyond ``max_seq_len`` stays and fails. Where prefill and decode are two workers, the
loss of either is one and the same: both phases begin again, with all tokens so far as the prompt.
"""

import asyncio
from typing import NamedTuple, Protocol

from ftharness.engine.frontend_log import FrontendLog
from ftharness.engine.frontend_plane import Plane, WorkerLink
from ftharness.engine.settings import STRATEGIES, Strategy

#: Seconds by which two planted bugs are late.
_SLOW_S = 3.0


class Policy(NamedTuple):
    """How a frontend routes and migrates.

    Attributes:
        strategy: In which order the workers' roles come to a request.
        limit: Moves of one request.
        max_seq_len: Tokens (prompt and answer) beyond which a request does not move, or None.
        stream_timeout_s: Seconds without a token after which a worker counts as lost, or None: a frozen one stalls.
        bug: A planted bug's name, or nothing.
    """

    strategy: Strategy = STRATEGIES["aggregated"]
    limit: int = 0
    max_seq_len: int | None = None
    stream_timeout_s: float | None = None
    bug: str = ""


class Receiver(Protocol):
    """Who wants the tokens of a generation."""

    def made(self, ids: list[int], reason: str | None, *, ended: bool, worker: str = "") -> None:
        """Tokens for the client, of that worker; with ``ended`` the last."""

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
        self._context = prompt_ids  # what this attempt began with
        self._remaining = max_tokens
        self._key = ""  # this attempt's
        self._worker: WorkerLink | None = None
        self._holder: WorkerLink | None = None  # whom the frontend had prefill it
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
        worker, key = self._release(), self._key
        if worker is not None and key in worker.streams:
            if kill and self._policy.bug == "moved-anyway":
                self._migrate()
            worker.cancel(key, kill=kill)
            if kill:
                self._log.kill_sent(self.request_id, worker.name)

    def on_accepted(self) -> None:
        """Its worker has it."""
        self._accepted = True

    def on_prefilled(self) -> None:
        """A worker holds its KV: one that decodes gets the request, and the name of that worker."""
        self._holder = self._release()
        assert self._holder is not None, "it is its worker that says so"
        worker = self._pick(self._policy.strategy.then)
        if worker is None:
            self._let_go()
        else:
            self._ask(worker, "generate", kv=self._holder.name)

    def on_tokens(self, ids: list[int], reason: str | None) -> None:
        """Its worker made more of it."""
        if reason == "abort":  # of one that the frontend gave up it does not hear
            self._release()
            self._fail(500, "The worker has given the request up")
            return
        self.generated += ids
        worker = self._worker.name if self._worker is not None else ""
        if self._timer is not None:
            self._heard = asyncio.get_running_loop().time()
        ended = reason is not None
        if ended:
            self._release()
        if self._dropping:
            self._dropping, ids = False, ids[1:]
        if self._policy.bug == "no-finish-reason" and self._migrations:
            reason = None
        self._receiver.made(ids, reason, ended=ended, worker=worker)

    def on_disconnected(self, error: str) -> None:
        """Its worker is lost: it goes to another, or fails."""
        if self._release() is None:
            return  # another choice of its request was on that worker too, and has failed: so has this one
        self._let_go()
        policy = self._policy
        length = len(self._prompt_ids) + len(self.generated)
        limit = policy.limit + (policy.bug == "one-move-more")
        if self._migrations >= limit and policy.bug != "migrate-beyond-limit":
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
        """An attempt, from its beginning."""
        strategy = self._policy.strategy
        if strategy.then and not self._plane.has(strategy.then):
            self._unavailable(strategy.then)
            return
        worker = self._pick(strategy.first)
        if worker is not None:
            self._context, self._remaining, self._key = context, remaining, self._plane.new_key()
            self._ask(worker, "prefill" if strategy.routed else "generate")

    def _pick(self, role: str) -> WorkerLink | None:
        """A worker of that role. Without one the request has failed."""
        worker = self._plane.pick(role)
        if worker is None:
            self._unavailable(role)
        return worker

    def _unavailable(self, role: str) -> None:
        if self._policy.bug == "ended-as-complete" and self.generated:
            self._receiver.made([], "length", ended=True)
            return
        whom = "worker" if role == "aggregated" else f"{role} worker"
        self._fail(503, f"Service temporarily unavailable: no {whom} for model {self._plane.model}")

    def _ask(self, worker: WorkerLink, op: str, **fields: str) -> None:
        self._worker, self._accepted = worker, False
        self._log.routed(self.request_id, worker.name, self._migrations)
        worker.ask(
            op,
            self._key,
            self,
            id=self.request_id,
            token_ids=self._context,
            max_tokens=self._remaining,
            seed=self._seed,
            attempt=self._migrations,
            **fields,
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
        worker.cancel(self._key, kill=True)  # it acts on it if it ever thaws
        self.on_disconnected(f"Timeout: worker {worker.name} said nothing for {patience:g} s")

    def _release(self) -> WorkerLink | None:
        worker, self._worker = self._worker, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return worker

    def _let_go(self) -> None:
        """The KV that a worker may still hold for whoever was to decode it."""
        if self._holder is not None:
            self._holder.send(op="release", key=self._key)
            self._holder = None

    def _fail(self, status: int, message: str) -> None:
        if self._policy.bug == "swallow-error":
            return
        self._log.error(f"request failed request_id={self.request_id} status={status}: {message}")
        self._receiver.failed(status, message)
