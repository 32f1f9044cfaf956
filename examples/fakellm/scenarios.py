"""What one server without a fallback promises: a client is never left waiting."""

from ftharness.client import chat
from ftharness.faults import freeze, kill, serving
from ftharness.scenario import Scenario, exits_as, fails_with, gap_within, logged, on_token, succeeds, tokens_exact
from ftharness.stack import Topology

STORY = chat("Tell me a story", max_tokens=400)

killed = Scenario(
    name="fakellm/killed",
    description="The server is killed in mid-stream: the client sees a broken connection at once, not silence.",
    topology=Topology(workers=1),
    workload=[STORY],
    faults=[on_token(50).inject(kill(serving))],
    expect=[fails_with("broken"), exits_as("SIGKILL"), logged("request_received")],
)

frozen = Scenario(
    name="fakellm/frozen",
    description="The server is frozen for a second: the stream stalls for as long, and loses nothing.",
    topology=Topology(workers=1),
    workload=[STORY],
    faults=[on_token(50).inject(freeze(serving, duration_s=1))],
    expect=[succeeds(), tokens_exact(), gap_within(ms=2_000)],
)
