"""Ports that nobody else gets."""

import os
import socket
import subprocess
import sys

from ftharness.process import PortReservation, listening_ports, listening_socket


def test_a_reserved_port_goes_to_whoever_names_it_and_to_nobody_else() -> None:
    """A server binds it by number; a thousand sockets that ask for any port do not get it."""
    reserved = PortReservation()
    for _ in range(1000):
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            assert other.getsockname()[1] != reserved.port
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", reserved.port))
        server.listen()
        assert reserved.port in listening_ports([os.getpid()])
    reserved.close()


def test_reservations_are_all_different() -> None:
    """Two hundred at once do not collide."""
    reserved = [PortReservation() for _ in range(200)]
    assert len({one.port for one in reserved}) == 200
    for one in reserved:
        one.close()


def test_a_bound_socket_is_refused_until_it_listens() -> None:
    """So that readiness over HTTP means the program, not our socket."""
    with listening_socket() as sock:
        assert sock.getsockname()[1] not in listening_ports([os.getpid()])
        with socket.socket() as client:
            assert client.connect_ex(sock.getsockname()) != 0


def test_a_port_is_that_of_the_process_that_listens_on_it() -> None:
    """What another program listens on is none of ours, though it was a moment ago; what has ended listens on nothing."""
    program = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        port = int(other.stdout.readline())
        assert port in listening_ports([os.getpid(), other.pid])
        assert port not in listening_ports([os.getpid()])
        other.communicate("")
    assert listening_ports([other.pid]) == set()
