"""Planted bugs of a pool manager: ``python -m ftharness.pool.planted BUG --config FILE --port N``.

The manager itself knows nothing of them: each puts a worse function in the place of one of its own, and then it is served as
``ftharness pool serve`` would. Scenarios run it so, to see each oracle of pools fail; see :mod:`ftharness.engine.bugs`.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ftharness.pool.adoption import StateFolder
from ftharness.pool.backoff import Backoff
from ftharness.pool.breaker import Breaker
from ftharness.pool.changes import Change
from ftharness.pool.config_file import load_config
from ftharness.pool.leases import Holding, Lease, LeaseEnded
from ftharness.pool.operations import OperationFailed, Progress
from ftharness.pool.pool_engines import OnTimeout, PoolEngines
from ftharness.pool.pool_entry import EngineEntry
from ftharness.pool.pool_model import PoolModel
from ftharness.pool.readiness import Readiness
from ftharness.pool.registry import Registry
from ftharness.pool.serving import serve
from ftharness.pool.slot import Slot


def _kept_leases(_: Registry, one: EngineEntry, reason: str) -> tuple[list[Lease], list[Change]]:
    """An engine ends, and its leases stay."""
    del one, reason
    return [], []


def _revoked_as_released(self: Registry, lease_id: str) -> Lease:
    """Whoever gives back what was taken from him is not told so."""
    lease: Lease = _of_the_manager["revoked-as-released"](self, lease_id)
    return msgspec.structs.replace(lease, state="released", reason="")


def _blind_probe(_: Registry, engine_id: str, reason: str, *, leasable: bool = False) -> None:
    """A bad answer changes nothing."""
    del engine_id, reason, leasable


def _costly_probe(self: Registry, engine_id: str, reason: str, *, leasable: bool = False) -> None:
    """A bad answer costs an engine its leases."""
    _of_the_manager["costly-probe"](self, engine_id, reason, leasable=leasable)
    _, changes = self._revoked(self.engine(engine_id), reason)
    self._changes.tell(changes)


def _once_unready(self: Registry, engine_id: str, **about: Any) -> None:
    """An engine that has answered badly is never ready again."""
    if self.engine(engine_id).state != "unready":
        _of_the_manager["once-unready"](self, engine_id, **about)


async def _ready_at_start(self: Readiness, *, warm: bool) -> str:
    """An engine that was lost is ready as soon as it has been started again."""
    if not self._registry.engine(self._engine_id).restarts:
        return str(await _of_the_manager["ready-at-start"](self, warm=warm))
    self._registry.engine_state(self._engine_id, "starting")
    self._say_ready()
    self._is_ready()
    return ""


def _flat_backoff(self: Backoff, failures: int) -> float:
    """Each wait is the first."""
    del failures
    return self._config.initial_s


def _no_breaker(_: Breaker, now: float) -> bool:
    """Every restart is let through."""
    del now
    return True


def _second_start(self: StateFolder, engine_id: str) -> Slot:
    """The next manager knows nothing of what the one before has left."""
    return Slot(self.path / f"engines-{os.getpid()}" / engine_id, engine_id, f"{self._owner}-{os.getpid()}")


def _forgotten_leases(_: Registry, held: Iterable[Holding], over: Iterable[Lease], gone: Mapping[str, str]) -> None:
    """The next manager does not go on with the leases of the one before."""
    del held, over, gone


def _eternal_leases(_: Registry) -> list[Lease]:
    """No lease is ever over by itself."""
    return []


def _unheard_renewal(self: Registry, lease_id: str, ttl_s: float | None = None) -> Lease:
    """A renewal is answered, and nothing is done."""
    lease = self.lease(lease_id)
    if lease.state != "held":
        raise LeaseEnded(lease)
    asked_ms = round(self.pool(lease.pool_id).config.ttl(ttl_s) * 1000)
    return msgspec.structs.replace(lease, expires_ms=int(time.time() * 1000) + asked_ms)


async def _no_rollback(self: PoolEngines, model: PoolModel, *, retry: bool = True) -> dict[str, str]:
    """When the new model's engine fails, the old one's is not started."""
    failed = getattr(self, "_failed", False)
    self._failed = not retry  # type: ignore[attr-defined]
    if failed and retry:
        return dict.fromkeys(self.supervisors, "nobody started it")
    started: dict[str, str] = await _of_the_manager["no-rollback"](self, model, retry=retry)
    return started


async def _half_reload(self: PoolEngines, model: PoolModel, *, retry: bool = True) -> dict[str, str]:
    """A reload gives its model to the first engine alone: the others serve the file's."""
    if retry:
        return dict(await _of_the_manager["half-reload"](self, model, retry=retry))
    (first, engine), *others = self.supervisors.items()
    waiting = {first: engine.up(model, retry=retry)}
    waiting |= {name: one.up(model.other(model.configured), retry=retry) for name, one in others}
    await asyncio.wait(waiting.values())
    return {name: future.result() for name, future in waiting.items()}


async def _shut_after_abort(self: PoolEngines, progress: Progress, deadline_s: float, on_timeout: OnTimeout) -> str:
    """A pool whose drain has given up goes on refusing leases."""
    try:
        return str(await _of_the_manager["shut-after-abort"](self, progress, deadline_s, on_timeout))
    except OperationFailed as error:
        if error.outcome == "aborted":
            self._house.registry.draining(self._id, draining=True)
        raise


#: By name: whose function it takes the place of, what that is called, and the worse one.
PLANTED: dict[str, tuple[type, str, Callable[..., Any]]] = {
    "kept-leases": (Registry, "_revoked", _kept_leases),
    "revoked-as-released": (Registry, "release", _revoked_as_released),
    "blind-probe": (Registry, "engine_unready", _blind_probe),
    "costly-probe": (Registry, "engine_unready", _costly_probe),
    "once-unready": (Registry, "engine_ready", _once_unready),
    "ready-at-start": (Readiness, "_become_ready", _ready_at_start),
    "flat-backoff": (Backoff, "planned", _flat_backoff),
    "no-breaker": (Breaker, "restart", _no_breaker),
    "second-start": (StateFolder, "slot", _second_start),
    "forgotten-leases": (Registry, "take_over", _forgotten_leases),
    "eternal-leases": (Registry, "_end_due", _eternal_leases),
    "unheard-renewal": (Registry, "renew", _unheard_renewal),
    "no-rollback": (PoolEngines, "_start", _no_rollback),
    "half-reload": (PoolEngines, "_start", _half_reload),
    "shut-after-abort": (PoolEngines, "drain", _shut_after_abort),
}
_of_the_manager = {name: getattr(owner, function) for name, (owner, function, _) in PLANTED.items()}


def main(argv: list[str]) -> int:
    """Serve with one bug until SIGTERM."""
    parser = argparse.ArgumentParser(prog="ftharness.pool.planted", description=__doc__)
    parser.add_argument("bug", choices=list(PLANTED))
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    told = parser.parse_args(argv)
    owner, function, worse = PLANTED[told.bug]
    setattr(owner, function, worse)
    config = msgspec.structs.replace(load_config(told.config), port=told.port)
    asyncio.run(serve(config, on_url=lambda url: print(url, flush=True)))  # noqa: T201 - as the command does
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
