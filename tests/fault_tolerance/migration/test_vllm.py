"""Request migration with vLLM workers: the worker that serves a request of 8,192 tokens is killed, or told to end.

The flow is the field's own: round-robin frontend, two workers, find the worker by its log, stop it, judge the outcome and
the log evidence. On another stack: ``--ft-stack dynamo-sim`` or ``--ft-stack dynamo-mocker``.
"""

import pytest

from ftharness.pytest_plugin import Ft

pytestmark = [pytest.mark.vllm, pytest.mark.gpu_0, pytest.mark.pre_merge]

# At 700 tokens a second the request takes 11.7 s and outlasts the 10 s grace of a shutdown; a kill needs no such length.
LONG = {"stream": False, "max_tokens": 8192, "speed": 700}
QUICK = {**LONG, "speed": 2800}


def test_request_migration_vllm_worker_failure(ft: Ft) -> None:
    """SIGKILL of the serving worker: the request migrates and succeeds."""
    ft.run("migration/worker_failure", engine="vllm", **QUICK)


def test_request_migration_vllm_graceful_shutdown(ft: Ft) -> None:
    """SIGTERM with a grace of 10 s: what is not finished then migrates and succeeds."""
    ft.run("migration/graceful_shutdown", engine="vllm", grace_s=10, **LONG)


def test_no_request_migration_vllm_worker_failure(ft: Ft) -> None:
    """SIGKILL with migration off: the request fails, and the frontend says that the limit is exhausted."""
    ft.run("migration/disabled_worker_failure", engine="vllm", **QUICK)


def test_no_request_migration_vllm_graceful_shutdown(ft: Ft) -> None:
    """SIGTERM with a grace of 10 s and migration off: what is not finished then fails."""
    ft.run("migration/disabled_graceful_shutdown", engine="vllm", grace_s=10, **LONG)
