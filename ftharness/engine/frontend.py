"""The frontend of the simulated stack: ``python -m ftharness.engine.frontend``.

It takes its listening sockets by file descriptor (``--http-fd``, ``--plane-fd``), so that nobody guesses a port, or
opens them on 127.0.0.1 itself (``--port``, ``--plane-port``) when it is run by hand.
"""

import argparse
import sys

from ftharness.engine.bugs import BUGS
from ftharness.engine.frontend_api import Api
from ftharness.engine.frontend_http import listening_socket, run, serve
from ftharness.engine.frontend_log import FrontendLog
from ftharness.engine.frontend_migration import Policy
from ftharness.engine.frontend_plane import Plane
from ftharness.engine.settings import STRATEGIES


async def _serve(arguments: argparse.Namespace) -> None:
    log = FrontendLog(arguments.model)
    policy = Policy(
        strategy=STRATEGIES[arguments.strategy],
        limit=arguments.migration_limit,
        max_seq_len=arguments.migration_max_seq_len,
        stream_timeout_s=arguments.stream_timeout_s,
        bug=arguments.bug,
    )
    plane = Plane(arguments.model, log, bug=arguments.bug)
    plane_socket = listening_socket(arguments.plane_fd, arguments.host, arguments.plane_port)
    http_socket = listening_socket(arguments.http_fd, arguments.host, arguments.port)
    await plane.listen(plane_socket)
    log.listening("plane", *plane_socket.getsockname()[:2])
    log.listening("HTTP", *http_socket.getsockname()[:2])
    await serve(Api(plane, policy, log, arguments.seed).application(), http_socket)
    plane.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ftharness.engine.frontend", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", "--http-port", type=int, default=0, help="0: any, see the log")
    parser.add_argument("--plane-port", type=int, default=0, help="where workers dial in; 0: any, see the log")
    parser.add_argument("--http-fd", type=int, help="a listening socket, inherited")
    parser.add_argument("--plane-fd", type=int, help="the same for the workers")
    parser.add_argument("--model", default="sim")
    parser.add_argument("--strategy", choices=STRATEGIES, default="aggregated", help="which roles its workers have")
    parser.add_argument("--migration-limit", type=int, default=0, help="moves of one request; 0: none")
    parser.add_argument("--migration-max-seq-len", type=int, help="tokens beyond which a request does not move")
    parser.add_argument("--stream-timeout-s", type=float, help="silence after which a worker counts as lost")
    parser.add_argument("--seed", type=int, default=0, help="of requests that bring none")
    parser.add_argument("--bug", metavar="BUG", choices=["", *BUGS], default="", help="a planted bug")
    return parser


def main(argv: list[str]) -> int:
    """Runs a frontend until it is told to end."""
    arguments = _parser().parse_args(argv)
    return run(_serve(arguments), arguments.model)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
