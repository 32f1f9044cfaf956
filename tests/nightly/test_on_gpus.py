"""The scenarios that show most, on real engines with a GPU each: the same data and the same judges as on a laptop.

``--ft-stack`` and ``--ft-engine`` say on what; a scenario that is not about that stack is skipped by its own reason. One whose
failure is a known finding ends as one that is expected to fail.
"""

import pytest

from ftharness.pytest_plugin import Ft

pytestmark = pytest.mark.nightly

#: One engine: it is hurt, or its client goes away.
ALONE = [
    "engine/child_killed",
    "engine/server_killed",
    "engine/terminated",
    "engine/client_left",
    "cancellation/aggregated_chat_stream",
    "cancellation/client_killed",
]
#: Two of them: a request goes from one to the other, or a worker comes back.
TWO = [
    "migration/worker_failure",
    "migration/graceful_shutdown",
    "migration/drain",
    "gateway/engine_killed",
    "gateway/rejoin",
    "cancellation/in_migration",
    "cancellation/routed_decode_cancel",
]


@pytest.mark.gpu_1
@pytest.mark.timeout(1800)  # an engine takes minutes to load
@pytest.mark.parametrize("name", ALONE)
def test_one_engine_on_a_gpu(ft: Ft, name: str) -> None:
    """Whatever is done to it: no memory of the GPU stays in use when it is gone."""
    ft.run(name, profile="gpu")


@pytest.mark.gpu_2
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", TWO)
def test_two_engines_on_a_gpu_each(ft: Ft, name: str) -> None:
    """The same, with another one that takes over."""
    ft.run(name, profile="gpu")
