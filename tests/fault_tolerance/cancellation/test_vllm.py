"""Request cancellation with vLLM workers: one that does it all, or prefill and decode apart, decode first.

The flow is the field's own: send the request, find it in the worker's log, read so many responses, go away, and look for the
abort in the logs of workers and frontend. On another stack: ``--ft-stack dynamo-sim`` or ``--ft-stack dynamo-mocker``;
what does not exist there is not applicable, with the reason.
"""

import pytest

from ftharness.pytest_plugin import Ft

pytestmark = [pytest.mark.vllm, pytest.mark.gpu_0, pytest.mark.pre_merge]


def test_request_cancellation_vllm_aggregated(ft: Ft) -> None:
    """During generation: a completion, a chat, and a streamed chat of which five responses are read."""
    ft.run("cancellation/aggregated", engine="vllm")
    ft.run("cancellation/aggregated_chat", engine="vllm")
    ft.run("cancellation/aggregated_chat_stream", engine="vllm")


def test_request_cancellation_vllm_decode_cancel(ft: Ft) -> None:
    """In the remote decode of a streamed chat: aborted in decode, and the prefill worker hears of it."""
    ft.run("cancellation/decode_cancel", engine="vllm")


def test_request_cancellation_vllm_remote_prefill_cancel(ft: Ft) -> None:
    """In the remote prefill of a long prompt: aborted in prefill, and the decode worker hears of it."""
    ft.run("cancellation/remote_prefill_cancel", engine="vllm")
