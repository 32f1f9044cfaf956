"""What a pool serves: its configuration with the model that it has now, which is staged once for all of its engines."""

import asyncio
import hashlib

import msgspec

from ftharness.pool.config import PoolConfig
from ftharness.pool.log_events import Log
from ftharness.pool.staging import Staged, stage

#: What does not change how an engine runs: one that was started under other values of these is still the one that is wanted.
_OF_THE_MANAGER = (
    "model",
    "digest",
    "provisioner",
    "provisioner_timeout_s",
    "probe",
    "backoff",
    "breaker",
    "warmup",
    "replicas",
    "lease_ttl_s",
    "lease_ttl_max_s",
    "drain_deadline_s",
    "stop_grace_s",
    "ready_timeout_s",
    "preload",
    "slots_per_engine",
)
_DIGEST = "@sha256:"


class PoolModel:
    """One model of a pool.

    Args:
        config: The pool's, with that model.
        log: Who is told when it is staged.
        configured: The model that the configuration's file names, where this one came by a reload.
        advised: What somebody was told of the pool already.
    """

    def __init__(
        self, config: PoolConfig, log: Log, *, configured: str | None = None, advised: set[str] | None = None
    ) -> None:
        self.config = config
        self._log = log
        self._advised = set() if advised is None else advised
        self.configured = self.reference if configured is None else configured
        self._busy = asyncio.Lock()
        self._staged: Staged | None = None

    @property
    def reference(self) -> str:
        """The model, as a reload would name it."""
        digest = self.config.digest.removeprefix("sha256:")
        return f"{self.config.model}{_DIGEST}{digest}" if digest else self.config.model

    def other(self, reference: str) -> "PoolModel":
        """The same pool with another model.

        Args:
            reference: As in the configuration; ``@sha256:…`` behind it is its digest.

        Raises:
            ValueError: The digest is none.
        """
        model, _, digest = reference.partition(_DIGEST)
        config = msgspec.structs.replace(self.config, model=model, digest=digest)
        # replace() does not check; what the file may not say, a call may not either.
        config = msgspec.convert(msgspec.to_builtins(config), PoolConfig)
        return PoolModel(config, self._log, configured=self.configured, advised=self._advised)

    async def staged(self) -> Staged:
        """The model on this machine; fetched and checked the first time.

        Raises:
            StagingError: It cannot be had.
        """
        async with self._busy:
            if self._staged is None:
                self._staged = await stage(self.config)
                self._log.event(
                    "model_staged",
                    pool_id=self.config.id,
                    path=str(self._staged.path),
                    digest_verified=self._staged.digest_verified,
                )
                if self._staged.advisory:
                    self.advise(self._staged.advisory)
            return self._staged

    def advise(self, reason: str) -> None:
        """Say what somebody should know of the pool: once, whatever is started again, and whichever model it serves."""
        if reason not in self._advised:
            self._advised.add(reason)
            self._log.event("advisory", pool_id=self.config.id, reason=reason)

    def forget(self) -> None:
        """Look for the model again the next time: it may have gone, or have come."""
        self._staged = None


def fingerprint(config: PoolConfig, uuids: tuple[str, ...]) -> str:
    """What an engine was started with, the model apart: one with another fingerprint is not the one that is wanted."""
    said = {name: value for name, value in msgspec.to_builtins(config).items() if name not in _OF_THE_MANAGER}
    return hashlib.sha256(msgspec.json.encode([said, uuids], order="sorted")).hexdigest()
