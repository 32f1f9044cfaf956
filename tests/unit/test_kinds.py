"""The faults' short names: what they are aimed at."""

from collections.abc import Callable
from typing import Any

import pytest

from ftharness.faults import kinds

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
    with pytest.raises(TypeError, match=r"not 'worker-1'; did you mean client_of\(0\)\?"):
        fault("worker-1")
