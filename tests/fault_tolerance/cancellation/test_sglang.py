"""Request cancellation with SGLang workers: one that does it all, or prefill and decode apart.

The flow is the field's own: send the request, find it in the worker's log, read so many responses, go away, and look for the
abort in the logs of workers and frontend. On another stack: ``--ft-stack dynamo-sim`` or ``--ft-stack dynamo-mocker``;
what does not exist there is not applicable, with the reason.
"""

import pytest

from ftharness.pytest_plugin import Ft

pytestmark = [pytest.mark.sglang, pytest.mark.gpu_0, pytest.mark.pre_merge]


def test_request_cancellation_sglang_aggregated(ft: Ft) -> None:
    """During generation: a completion, a chat, and a streamed chat of which one response is read."""
    ft.run("cancellation/aggregated", engine="sglang")
    ft.run("cancellation/aggregated_chat", engine="sglang")
    ft.run("cancellation/aggregated_chat_stream", engine="sglang", token=1)


def test_request_cancellation_sglang_decode_cancel(ft: Ft) -> None:
    """In the remote decode of a streamed chat, after one response: aborted in decode, and prefill hears of it."""
    ft.run("cancellation/decode_cancel", engine="sglang", token=1)
