"""Ports that nobody else gets."""

import socket

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
        assert reserved.port in listening_ports()
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
        assert sock.getsockname()[1] not in listening_ports()
        with socket.socket() as client:
            assert client.connect_ex(sock.getsockname()) != 0
