"""A client that goes away, in each of its ways, as the server and the history see it; on real sockets and processes."""

import asyncio
import fcntl
import json
import os
import signal
import socket
import struct
import sys
import termios
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import pytest

from ftharness.client import CannotLeave, Client, Left, Stream, completion
from ftharness.history import History, RequestChunk, RequestFinished

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
DONE = b"data: [DONE]\n\n"
GONE = {"FIN_WAIT1", "FIN_WAIT2"}


def event(text: str, finish: str | None = None) -> bytes:
    return b"data: " + json.dumps({"choices": [{"text": text, "finish_reason": finish}]}).encode() + b"\n\n"


@dataclass
class Server:
    """Reads each request whole; what it answers is the test's to say."""

    history: History = field(default_factory=History)
    requests: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=asyncio.Queue)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    url: str = ""
    client: Client = field(init=False)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
        self.requests.put_nowait((reader, writer))

    async def asked(self, **fields: object) -> tuple[Stream, asyncio.StreamReader, asyncio.StreamWriter]:
        """A request that the server has, and has not answered."""
        stream = await self.client.send(completion(**fields))
        reader, writer = await asyncio.wait_for(self.requests.get(), 10)
        return stream, reader, writer

    async def begun(self, **fields: object) -> tuple[Stream, asyncio.StreamReader, asyncio.StreamWriter]:
        """A request of whose answer the client has one token."""
        stream, reader, writer = await self.asked(**fields)
        writer.write(HEAD + event(" one"))
        await stream.token(1)
        return stream, reader, writer

    def end(self) -> RequestFinished:
        (end,) = self.history.select(RequestFinished)
        return end


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    one = Server()
    listening = await asyncio.start_server(one.accept, "127.0.0.1", 0)
    one.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    one.client = Client(one.history, one.url, "m", seed=1, idle_s=10)
    yield one
    await one.client.close()
    listening.close()
    for writer in one.writers:
        writer.close()
    await listening.wait_closed()


Leave = Callable[[Stream], Awaitable[Left | None]]
RESET = {"closed with SO_LINGER 0"}
WAYS: list[tuple[str, Leave, bool, set[str], str]] = [
    ("close", Stream.disconnect, False, GONE, "the client closed the connection"),
    ("reset", Stream.reset, False, RESET, "the client reset the connection"),
    ("task", Stream.cancel_task, False, GONE, "the task that awaited the answer was cancelled"),
    ("kill", Stream.kill_client, True, {"SIGKILL"}, "the client was killed"),
    ("close of a process", Stream.disconnect, True, {"exit status 0"}, "the client closed the connection"),
]


@pytest.mark.parametrize("leave,own_process,states,said", [way[1:] for way in WAYS], ids=[way[0] for way in WAYS])
async def test_a_client_that_goes_in_mid_stream(
    server: Server, leave: Leave, own_process: bool, states: set[str], said: str
) -> None:
    """The server sees the end; the history has every token until then, ``cancelled``, and the moment of the socket's end."""
    stream, reader, writer = await server.begun(own_process=own_process)
    port = writer.get_extra_info("peername")[1]
    before = server.history.now()
    left = await leave(stream)
    assert left is not None
    after = server.history.now()
    if states == RESET:
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 10)
    else:
        assert await asyncio.wait_for(reader.read(), 10) == b""
    end = server.end()
    assert (end.outcome, end.status) == ("cancelled", 200)
    assert said in end.error
    assert left.evidence["local_port"] == port
    assert left.evidence.get("socket", left.evidence.get("wait_status")) in states
    assert end.t == left.at - server.history.start_ns
    assert before <= end.t <= after
    assert [chunk.t <= end.t for chunk in server.history.select(RequestChunk)] == [True]


async def test_a_killed_client_is_a_process_that_was_killed(server: Server) -> None:
    """Its wait status is the proof, and what it had read is not lost, though we had not read it from it."""
    stream, _, writer = await server.begun(own_process=True)
    link = stream._connection._transport.get_extra_info("socket")
    writer.write(event(" two"))
    while unread(link.fileno()) < len(event(" two")):  # our loop stands still, the client process does not
        os.sched_yield()
    left = await stream.kill_client()
    assert left is not None
    assert left.evidence["wait_status"] == "SIGKILL"
    assert left.evidence["pid"] != os.getpid()
    assert [chunk.text for chunk in server.history.select(RequestChunk)] == [" one", " two"]
    assert all(chunk.t <= server.end().t for chunk in server.history.select(RequestChunk))


def unread(fd: int) -> int:
    """Bytes that wait in a socket."""
    (count,) = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))
    return int(count)


@pytest.mark.parametrize("leave", [Stream.disconnect, Stream.reset, Stream.cancel_task])
async def test_a_client_that_goes_before_the_first_byte(server: Server, leave: Leave) -> None:
    """Of an answer in one piece: there is no status, and the server sees it go all the same."""
    stream, reader, _ = await server.asked(stream=False)
    assert await leave(stream) is not None
    with pytest.raises(ConnectionResetError) if leave is Stream.reset else nullcontext():
        assert await asyncio.wait_for(reader.read(), 10) == b""
    assert (server.end().outcome, server.end().status) == ("cancelled", None)


async def test_half_a_close_is_none(server: Server) -> None:
    """The server reads the end of what is asked; the client still gets all of the answer."""
    stream, reader, writer = await server.begun()
    left = await stream.half_close()
    assert left is not None
    assert left.evidence["socket"] in {"FIN_WAIT1", "FIN_WAIT2"}
    assert await asyncio.wait_for(reader.read(), 10) == b""
    assert stream.result is None
    writer.write(event(" two", "stop") + DONE)
    writer.close()
    end = await stream.finished()
    assert (end.outcome, stream.text) == ("success", " one two")


@pytest.mark.parametrize("own_process", [False, True])
async def test_what_is_over_cannot_be_left(server: Server, own_process: bool) -> None:
    """None of the ways does anything, and the outcome stays what it was."""
    stream, _, writer = await server.begun(own_process=own_process)
    writer.write(event("", "stop") + DONE)
    writer.close()
    assert (await stream.finished()).outcome == "success"
    for leave in (Stream.disconnect, Stream.reset, Stream.cancel_task, Stream.kill_client, Stream.half_close):
        assert await leave(stream) is None
    assert server.end().outcome == "success"


async def test_what_the_server_has_ended_cannot_be_left_though_it_is_not_read(server: Server) -> None:
    """The whole answer lies in the socket: nobody goes away from it in mid-stream."""
    stream, _, writer = await server.begun()
    writer.write(event(" two", "stop") + DONE)  # all in one turn of the loop: our side has read nothing when it tries
    writer.write_eof()
    assert await asyncio.gather(stream.disconnect(), stream.reset(), stream.half_close()) == [None] * 3
    assert (await stream.finished()).outcome == "success"


@pytest.mark.parametrize("leave,own_process", [way[1:3] for way in WAYS], ids=[way[0] for way in WAYS])
@pytest.mark.parametrize("turns", range(4))
async def test_who_is_called_off_while_leaving_has_left(
    server: Server, leave: Leave, own_process: bool, turns: int
) -> None:
    """A fault that is cancelled half way, as by a Ctrl-C, leaves no request that nobody ends: it is cancelled, and no hang."""
    stream, _, _ = await server.begun(own_process=own_process)
    leaving = asyncio.ensure_future(leave(stream))
    for _ in range(turns):
        await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait([leaving])
    await asyncio.wait_for(stream.close(), 5)  # as the teardown does with all that is under way
    assert server.end().outcome == "cancelled"


async def test_the_second_to_leave_finds_it_left(server: Server) -> None:
    """Whoever comes first has done it, once."""
    stream, _, _ = await server.begun()
    left = await asyncio.gather(stream.disconnect(), stream.reset(), stream.cancel_task())
    assert [one is not None for one in left].count(True) == 1
    assert server.end().outcome == "cancelled"


async def test_what_a_client_cannot_do_it_says(server: Server) -> None:
    """Only a process of its own can be killed, and that one resets nothing; the request goes on."""
    here, _, _ = await server.begun()
    with pytest.raises(CannotLeave, match="ask with own_process=True"):
        await here.kill_client()
    apart, _, _ = await server.begun(own_process=True)
    for leave in (Stream.reset, Stream.half_close):
        with pytest.raises(CannotLeave, match="sent by a process of its own"):
            await leave(apart)
    assert here.result is apart.result is None


async def test_a_client_process_tells_how_the_server_ended_it(server: Server) -> None:
    """Complete, cut off, reset or refused: as from a connection of ours."""
    stream, _, writer = await server.begun(own_process=True)
    writer.close()
    assert (await stream.finished()).error == "the stream ended without [DONE]"
    stream, _, writer = await server.asked(own_process=True)
    writer.close()
    assert (await stream.finished()).error == "the server closed the connection before a response"
    stream, _, writer = await server.begun(own_process=True)
    writer.write(b"data: ")
    writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    end = await stream.finished()
    assert end.outcome == "error"
    assert "ConnectionResetError" in end.error
    nobody = Client(History(), "http://127.0.0.1:1", "m")
    refused = await nobody.send(completion(own_process=True))
    assert "no connection: [Errno 111]" in (await refused.finished()).error


async def test_a_client_process_that_ends_by_itself_is_an_error(server: Server) -> None:
    """Nobody of ours did it: no cancellation."""
    stream, _, _ = await server.begun(own_process=True)
    os.kill(stream._connection._process.pid, signal.SIGTERM)
    end = await stream.finished()
    assert (end.outcome, end.error) == ("error", "the client process ended by itself")


async def test_a_client_process_does_not_outlive_the_harness(server: Server) -> None:
    """Not even when that is killed: the server sees its connection end."""
    script = (
        "import asyncio, sys\n"
        "from ftharness.client import Client, completion\n"
        "from ftharness.history import History\n"
        "async def main():\n"
        f"    stream = await Client(History(), {server.url!r}, 'm').send(completion(own_process=True))\n"
        "    await stream.token(1)\n"
        "    print(stream._connection._process.pid, flush=True)\n"
        "    await stream.finished()\n"
        "asyncio.run(main())\n"
    )
    harness = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    reader, writer = await asyncio.wait_for(server.requests.get(), 20)
    writer.write(HEAD + event(" one"))
    assert harness.stdout is not None
    pidfd = os.pidfd_open(int(await asyncio.wait_for(harness.stdout.readline(), 20)))
    harness.kill()
    await harness.wait()
    assert await asyncio.wait_for(reader.read(), 10) == b""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    await asyncio.wait_for(ended.wait(), 10)
    loop.remove_reader(pidfd)
    os.close(pidfd)


async def test_a_request_is_sent_after_another_has_ended(server: Server) -> None:
    """In whatever way: that one was cancelled."""
    sending = asyncio.create_task(server.client.send_all([completion("a"), completion("b", after=0)]))
    await asyncio.wait_for(server.requests.get(), 10)
    (first,) = server.client._open
    assert server.requests.empty()
    await first.cancel()
    _, two = await asyncio.wait_for(server.requests.get(), 10)
    two.write(HEAD + event(" b", "stop") + DONE)
    two.close()
    assert [stream.result.outcome for stream in await sending] == ["cancelled", "success"]


@pytest.mark.parametrize("after", [1, 2, -1])
async def test_a_request_is_only_sent_after_an_earlier_one(server: Server, after: int) -> None:
    """Otherwise nobody would ever send it."""
    with pytest.raises(ValueError, match=f"request 1: after = {after}: must be the place of an earlier one"):
        await server.client.send_all([completion(), completion(after=after), completion()])
