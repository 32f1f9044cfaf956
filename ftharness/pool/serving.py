"""A manager with its HTTP API, its log and its metrics: what ``ftharness pool serve`` runs."""

import asyncio
import errno
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftharness.pool.adoption import AnotherManager, StateError, StateFolder
from ftharness.pool.api import Api
from ftharness.pool.auth import check_exposure, read_token
from ftharness.pool.config import ManagerConfig
from ftharness.pool.devices import discover
from ftharness.pool.log_sink import LineSink
from ftharness.pool.logs import LibraryLog, PoolLog
from ftharness.pool.manager import Manager
from ftharness.pool.metrics import PoolMetrics
from ftharness.pool.open_files import raise_limit
from ftharness.pool.registry import Registry
from ftharness.pool.server import Server, listening, url_of
from ftharness.pool.telling import Both, Known, Teller
from ftharness.process import Redactor

#: Seconds that whoever reads the log has for what was held back, at the end.
_LAST_LINES_S = 5.0


class CannotServe(Exception):  # noqa: N818 - says what is the case
    """A pool could not be started, and the configuration says to end then."""


async def serve(config: ManagerConfig, *, log_fd: int = 2, on_url: Callable[[str], None] = lambda _: None) -> str:
    """Serve until SIGTERM, SIGINT, SIGHUP, or a pool that cannot be started.

    Args:
        config: What to keep.
        log_fd: Where the log's lines go.
        on_url: Told where the API is, once it answers.

    Returns:
        The name of the signal.

    Raises:
        TokenError: There is no token where one is needed, or it cannot be had.
        MaskError: A pool's mask names what there is not.
        StateError: The state folder is another manager's, or cannot be used.
        OSError: Nothing can listen there.
        CannotServe: As it says.
    """
    raise_limit()
    token = read_token(config.token_file, config.token_env)
    check_exposure(config.host, token)
    registry = Registry(config.pools, await asyncio.to_thread(discover))
    redactor = _redactor(config, token)
    sink = LineSink(log_fd)
    lines = PoolLog(sink, redactor=redactor, level=config.log_level, known=Known(registry))
    metrics = PoolMetrics(registry)
    log = Both(lines, metrics)
    with _listening(config) as sock, _libraries_into(lines):
        url = url_of(sock)
        # Before the manager's own listener: a lease is in the log before anybody acts on it.
        registry.subscribe(metrics.changed)
        registry.subscribe(Teller(registry, lines))
        manager = Manager(config, registry=registry, log=log)
        api = Api(manager, metrics=metrics, log=log, redactor=redactor, token=token)
        told = _Signals()
        try:
            async with manager:
                manager.announce(url)
                server = Server(api.application())
                answering = asyncio.ensure_future(server.serve(sockets=[sock]))
                log.event("manager_started", host=config.host, port=sock.getsockname()[1], pid=os.getpid())
                on_url(url)
                waiting: set[asyncio.Future[Any]] = {asyncio.ensure_future(told.one()), manager.failed, answering}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                reason = told.name or (manager.failed.result() if manager.failed.done() else "its server has ended")
                manager.end_leases()
                api.close()
                server.stop()
                await answering
            log.event("manager_stopped", reason=reason)
        finally:
            told.close()
            sink.finish(_LAST_LINES_S)
    if not told.name:
        raise CannotServe(reason)
    return told.name


def _listening(config: ManagerConfig) -> socket.socket:
    try:
        return listening(config.host, config.port)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        _nobody_has(Path(config.state_dir))
        advice = f"{error.strerror}; --port 0 takes one that is free"
        raise OSError(error.errno, advice, error.filename) from error


def _nobody_has(state_dir: Path) -> None:
    """The usual slip is the same command twice: who has the port has the folder as well, which tells more of it.

    Raises:
        AnotherManager: So it is.
    """
    try:
        if state_dir.is_dir():
            with StateFolder(state_dir):
                pass
    except AnotherManager:
        raise
    except StateError:
        return  # whoever is to use it will say so


class _Signals:
    """The first SIGTERM, SIGINT or SIGHUP is an event; the second one ends us at once, and shims see to the engines."""

    def __init__(self) -> None:
        self.name = ""
        self._told = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._numbers = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup: it is to outlive its terminal
            self._numbers.append(signal.SIGHUP)
        for number in self._numbers:
            self._loop.add_signal_handler(number, self._tell, number)

    async def one(self) -> None:
        """Wait for the first."""
        await self._told.wait()

    def close(self) -> None:
        """Signals do again what they usually do."""
        for number in self._numbers:
            self._loop.remove_signal_handler(number)

    def _tell(self, number: signal.Signals) -> None:
        self.name = number.name
        self._told.set()
        for other in self._numbers:
            self._loop.remove_signal_handler(other)
            signal.signal(other, signal.SIG_DFL)


def _redactor(config: ManagerConfig, token: str) -> Redactor:
    redactor = Redactor()
    redactor.learn_environment({"TOKEN": token})
    for pool in config.pools:
        redactor.learn_environment(pool.env)
        redactor.learn_arguments([*pool.command, *pool.args, *pool.provisioner])
    return redactor


@contextmanager
def _libraries_into(log: PoolLog) -> Iterator[None]:
    handler = LibraryLog(log)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
