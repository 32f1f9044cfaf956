"""An OpenAI-shaped server that streams made-up tokens on an absolute schedule, at as little cost as asyncio allows.

Not the simulated stack's frontend: that one is a model of a real frontend, HTTP parser and all, and at 10,000 tokens a
second it would be the server that is measured. Prints its port; ends when its standard input does.

    python _sse_server.py TOKENS_PER_SECOND
"""

import asyncio
import json
import sys

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_EVENT = (
    b'data: {"id":"cmpl-7d1c7f2e","object":"text_completion","created":1769860800,"model":"m","choices":'
    b'[{"index":0,"text":"%s","logprobs":null,"finish_reason":%s}]}\n\n'
)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


_TOKEN = _chunk(_EVENT % (b" bazin", b"null"))
_LAST = _chunk(_EVENT % (b" bazin", b'"length"')) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Answer(asyncio.Protocol):
    """One connection: a request, its tokens, the end."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._request = b""
        self._sent = 0
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._request += data
        head, found, body = self._request.partition(b"\r\n\r\n")
        if found and len(body) >= int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]):
            self._tokens = json.loads(body)["max_tokens"]
            self._transport.write(_HEAD)
            self._began = self._loop.time()
            self._next()

    def _next(self) -> None:
        self._loop.call_at(self._began + (self._sent + 1) / self._speed, self._token)

    def _token(self) -> None:
        if self._transport.is_closing():
            return
        self._sent += 1
        self._transport.write(_TOKEN if self._sent < self._tokens else _LAST)
        if self._sent < self._tokens:
            self._next()
        else:
            self._transport.close()


async def serve(speed: float) -> None:
    """Serve until nobody holds the other end of our standard input."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Answer(speed), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1])))
