"""What ``migration/worker_failure`` does on ``sim``, by hand: the same processes, requests and kill, and nothing else.

No history, no oracles, no report, no guardian, no contract. Standard library only, and of that what starts fast.
"""

import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time

TOKENS, KILL_AT = 260, 64
_LAUNCHER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "ftharness/engine/launch.py")  # noqa: PTH100, PTH118, PTH120 - pathlib costs a bare script 10 ms
_BODY = b'{"model":"m","prompt":"Once upon a time","max_tokens":%d,"stream":true}' % TOKENS


def _listener() -> tuple[socket.socket, int]:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock, sock.getsockname()[1]


def _start(argv: list[str], log: str, fds: tuple[int, ...] = ()) -> "subprocess.Popen[bytes]":
    with open(log, "wb") as file:  # noqa: PTH123 - see above
        return subprocess.Popen(argv, stdout=file, stderr=file, pass_fds=fds, start_new_session=True)


def _instances(port: int) -> int:
    try:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            page = b""
            while data := sock.recv(65536):
                page += data
    except OSError:
        return 0
    found = re.search(rb'"instances":\s*\[([^\]]*)\]', page)
    return len(re.findall(rb"worker-\d", found[1])) if found else 0


def _request(port: int, logs: dict[str, int], *, kill: bool) -> None:
    """One stream; the worker that has it is killed when token 64 has arrived."""
    request_id = b"00000000-0000-4000-8000-%012d" % kill
    with socket.create_connection(("127.0.0.1", port)) as sock:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
        head += b"X-Request-Id: %s\r\nx-dynamo-request-id: %s\r\n" % (request_id, request_id)
        sock.sendall(head + b"Content-Length: %d\r\n\r\n" % len(_BODY) + _BODY)
        answer = b""
        while data := sock.recv(65536):
            answer += data
            if kill and answer.count(b"\ndata: ") >= KILL_AT:
                kill = False
                serving = next(pid for log, pid in logs.items() if request_id in open(log, "rb").read())  # noqa: PTH123, SIM115
                os.kill(serving, signal.SIGKILL)
    assert answer.count(b'"text":') >= TOKENS - KILL_AT, answer[-500:]
    assert b"[DONE]" in answer


def main(folder: str) -> None:
    """Launch, once without the kill, once with it, stop."""
    (http, http_port), (plane, plane_port) = _listener(), _listener()
    argv = [sys.executable, "-m", "ftharness.engine.frontend", "--model", "m", "--seed", "0", "--migration-limit", "3"]
    argv += ["--http-fd", str(http.fileno()), "--plane-fd", str(plane.fileno())]
    processes = [_start(argv, f"{folder}/frontend", (http.fileno(), plane.fileno()))]
    http.close()
    plane.close()
    logs = {}
    for name in ("worker-1", "worker-2"):
        argv = [sys.executable, "-I", "-S", "-u", _LAUNCHER, "worker", "--plane", f"127.0.0.1:{plane_port}"]
        argv += ["--model", "m", "--name", name, "--engine", "vllm", "--role", "aggregated", "--speed", "200"]
        argv += ["--slots", "256", "--drain-s", "60", "--seed", "0"]
        processes.append(_start(argv, f"{folder}/{name}"))
        logs[f"{folder}/{name}"] = processes[-1].pid
    while _instances(http_port) < len(logs):
        time.sleep(0.01)
    _request(http_port, logs, kill=False)
    _request(http_port, logs, kill=True)
    for process in processes:
        if process.poll() is None:
            pidfd = os.pidfd_open(process.pid)
            process.terminate()
            select.select([pidfd], [], [])
            os.close(pidfd)
        process.wait()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(scratch)
