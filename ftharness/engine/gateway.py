"""Our frontend before real engine servers: ``python -m ftharness.engine.gateway``.

It speaks OpenAI's API to both sides, logs and counts as the simulated frontend does, and moves a request whose server is lost to
another one, with the tokens that its client has. Its listening socket it takes by file descriptor (``--http-fd``), or opens it
on 127.0.0.1 itself (``--port``).
"""

import argparse
import sys
from urllib.parse import urlsplit

from ftharness.engine.frontend_http import listening_socket, run, serve
from ftharness.engine.frontend_log import FrontendLog
from ftharness.engine.frontend_migration import Policy
from ftharness.engine.gateway_api import Api
from ftharness.engine.gateway_request import DIALECTS
from ftharness.engine.gateway_workers import Workers


async def _serve(arguments: argparse.Namespace) -> None:
    log = FrontendLog(arguments.model)
    policy = Policy(
        limit=arguments.migration_limit,
        max_seq_len=arguments.migration_max_seq_len,
        stream_timeout_s=arguments.stream_timeout_s,
    )
    sock = listening_socket(arguments.http_fd, arguments.host, arguments.port)
    workers = Workers(arguments.worker, arguments.dialect, log)
    workers.watch()
    log.listening("HTTP", *sock.getsockname()[:2])
    api = Api(workers, policy, log, model=arguments.model, engine=arguments.dialect)
    await serve(api.application(), sock)
    await workers.close()


def _worker(text: str) -> tuple[str, str]:
    name, _, url = text.partition("=")
    parts = urlsplit(url)
    if not name or parts.scheme != "http" or not parts.hostname:
        raise argparse.ArgumentTypeError(f"a worker is NAME=http://HOST:PORT, not {text!r}")
    return name, url


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ftharness.engine.gateway", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any, see the log")
    parser.add_argument("--http-fd", type=int, help="a listening socket, inherited")
    parser.add_argument("--model", required=True, help="the name under which the workers serve it")
    parser.add_argument(
        "--worker", type=_worker, action="append", required=True, help="NAME=http://HOST:PORT; one each"
    )
    parser.add_argument("--dialect", choices=DIALECTS, default="vllm", help="what the workers are")
    parser.add_argument("--migration-limit", type=int, default=0, help="moves of one request; 0: none")
    parser.add_argument("--migration-max-seq-len", type=int, help="tokens beyond which a request does not move")
    parser.add_argument("--stream-timeout-s", type=float, help="silence after which a worker counts as lost")
    return parser


def main(argv: list[str]) -> int:
    """Runs a gateway until it is told to end."""
    arguments = _parser().parse_args(argv)
    return run(_serve(arguments), arguments.model)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
