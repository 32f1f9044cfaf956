"""The faults' short names: what they are aimed at."""

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import ftharness.faults
from ftharness.faults import Fault, Target, client_of, decode_worker, fault_kind, kinds
from ftharness.registry import installed

ON_PROCESSES = [kinds.kill, kinds.terminate, kinds.interrupt, kinds.freeze, kinds.thaw, kinds.kill_engine]
ON_CLIENTS = [kinds.disconnect, kinds.reset, kinds.cancel_task, kinds.kill_client, kinds.half_close]


@pytest.mark.parametrize("fault", ON_PROCESSES, ids=lambda fault: fault.__name__)
def test_a_name_alone_is_no_target(fault: Callable[[Any], object]) -> None:
    """It is told what was meant; whatever else is none is told what is one."""
    with pytest.raises(TypeError, match=r"not 'worker-1'; did you mean named\('worker-1'\)\?"):
        fault("worker-1")
    with pytest.raises(TypeError, match=r"not 1; such as serving, or ft\.stack\.workers\[0\]"):
        fault(1)


@pytest.mark.parametrize("fault", ON_CLIENTS, ids=lambda fault: fault.__name__)
def test_a_fault_of_a_client_names_its_request(fault: Callable[[Any], object]) -> None:
    """By its place, and not by that number alone."""
    with pytest.raises(TypeError, match=r"not 2; did you mean client_of\(2\)\?"):
        fault(2)
    with pytest.raises(TypeError, match=r"not 'worker-1'; such as a stream, or client_of\(0\)"):
        fault("worker-1")
    with pytest.raises(TypeError, match=r"not serving \(request 3\); such as client_of\(3\)"):
        fault(Target(role="serving", request=3))


@pytest.mark.parametrize("fault", ON_CLIENTS, ids=lambda fault: fault.__name__)
def test_a_stream_is_its_own_client(fault: Callable[[Any], Fault]) -> None:
    """A test need not count which of its streams it is."""
    stream = SimpleNamespace(index=2, id="x")
    assert fault(stream).target == client_of(stream) == client_of(2)
    assert decode_worker(stream) == Target(role="decode_worker", request=2)


@pytest.mark.parametrize("fault", ON_PROCESSES, ids=lambda fault: fault.__name__)
def test_a_client_is_no_process(fault: Callable[[Any], object]) -> None:
    """What hits one is named."""
    with pytest.raises(TypeError, match="hits a process, not a client; a client is hit by disconnect, reset"):
        fault(client_of(0))


def test_a_request_has_a_place() -> None:
    """Counted from 0; nothing else is let through, to be printed as an address later."""
    with pytest.raises(ValueError, match="request = -1: must be at least 0"):
        client_of(-1)
    with pytest.raises(TypeError, match="given by its place, counted from 0, or by its stream; not 'x'"):
        client_of("x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be the place of a request"):
        Target(role="client", request=object())  # type: ignore[arg-type]


def test_no_module_takes_the_place_of_a_name() -> None:
    """A kind's code is imported when it is first used: a module of the same name would then be what the package offers."""
    for name in installed("ftharness.faults"):
        fault_kind(name)
    assert [name for name in ftharness.faults.__all__ if isinstance(getattr(ftharness.faults, name), ModuleType)] == []
