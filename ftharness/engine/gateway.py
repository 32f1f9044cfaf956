"""Our frontend before real engine servers: ``python -m ftharness.engine.gateway``.

It speaks OpenAI's API to both sides, logs and counts as the simulated frontend does, and moves a request whose server is lost to
another one, with the tokens that its client has. Its listening socket it takes by file descriptor (``--http-fd``), or opens it
on 127.0.0.1 itself (``--port``).
"""

import argparse
import math
import socket
import sys
from collections.abc import Callable
from urllib.parse import urlsplit

from ftharness.engine.frontend_http import listening_socket, run, serve
from ftharness.engine.frontend_log import FrontendLog
from ftharness.engine.frontend_migration import Policy
from ftharness.engine.gateway_api import Api
from ftharness.engine.gateway_request import DIALECTS
from ftharness.engine.gateway_workers import Workers

_PORTS = 65_535


async def _serve(arguments: argparse.Namespace, sock: socket.socket) -> None:
    log = FrontendLog(arguments.model)
    policy = Policy(
        limit=arguments.migration_limit,
        max_seq_len=arguments.migration_max_seq_len,
        stream_timeout_s=arguments.stream_timeout_s,
    )
    workers = Workers(arguments.worker, arguments.dialect, log)
    workers.watch()
    log.listening("HTTP", *sock.getsockname()[:2])
    api = Api(workers, policy, log, model=arguments.model, engine=arguments.dialect)
    await serve(api.application(), sock)
    await workers.close()


def _worker(text: str) -> tuple[str, str]:
    name, _, url = text.partition("=")
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:  # beyond what there is
        port = 0
    if not name or parts.scheme != "http" or not parts.hostname or port == 0:
        raise argparse.ArgumentTypeError(f"a worker is NAME=http://HOST:PORT, not {text!r}")
    return name, url


def _whole(low: int, high: float = math.inf) -> Callable[[str], int]:
    """Reads a whole number of that range."""

    def read(text: str) -> int:
        number = int(text)
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(
                f"{number}: must be at least {low}" + f" and at most {high}" * (high < math.inf)
            )
        return number

    read.__name__ = "whole number"  # argparse's word for what is none
    return read


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{seconds:g}: must be more than 0, and finite")
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ftharness.engine.gateway", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=_whole(0, _PORTS), default=0, help="0: any, see the log")
    parser.add_argument("--http-fd", type=_whole(0), help="a listening socket, inherited")
    parser.add_argument("--model", required=True, help="the name under which the workers serve it")
    parser.add_argument(
        "--worker", type=_worker, action="append", required=True, help="NAME=http://HOST:PORT; one each"
    )
    parser.add_argument("--dialect", choices=DIALECTS, default="vllm", help="what the workers are")
    parser.add_argument("--migration-limit", type=_whole(0), default=0, help="moves of one request; 0: none")
    parser.add_argument("--migration-max-seq-len", type=_whole(1), help="tokens beyond which a request does not move")
    parser.add_argument("--stream-timeout-s", type=_seconds, help="silence after which a worker counts as lost")
    return parser


def main(argv: list[str]) -> int:
    """Runs a gateway until it is told to end; a call that is wrong ends with status 2, and says why."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    names = [name for name, _ in arguments.worker]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        parser.error(f"argument --worker: two are named {', '.join(twice)}")
    try:
        sock = listening_socket(arguments.http_fd, arguments.host, arguments.port)
    except OSError as error:
        where = f"{arguments.host}:{arguments.port}" if arguments.http_fd is None else f"--http-fd {arguments.http_fd}"
        parser.error(f"cannot listen on {where}: {error.strerror or error}")
    return run(_serve(arguments, sock), arguments.model)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
