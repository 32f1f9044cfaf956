"""A real engine server by itself, hurt: is the client told, does its health say so, is anything left behind?

There is no frontend: clients ask the server, as a gateway would. For the stacks ``vllm`` and ``sglang``.
"""

from ftharness.client import Request, completion
from ftharness.faults import (
    check_health,
    disconnect,
    freeze_engine,
    kill,
    kill_engine,
    kill_rank,
    serving,
    terminate,
)
from ftharness.scenario import (
    Expect,
    Injection,
    Scenario,
    aborted_in,
    after_fault,
    cancelled_within,
    ends_cleanly,
    exits_as,
    fails_with,
    health_agrees,
    health_is,
    no_tokens_after_abort,
    on_token,
    silent_at_most,
    slots_freed,
    still_serves,
)
from ftharness.stack import alone

# 500 tokens: at the 50 to 400 a second of a tiny model on one core there is a middle to strike at, and time for a grace.
STREAM = completion(max_tokens=500)
# Long enough to outlive a look at a draining server, and the request that follows it.
LONG = completion(max_tokens=800)
NEXT = completion("And then", max_tokens=8, after_fault=1)

SERVERS = ["vllm", "sglang"]


def server(
    name: str,
    description: str,
    faults: list[Injection],
    *expect: Expect,
    workload: list[Request] | None = None,
    drain_s: float = 60,
    **fields: object,
) -> Scenario:
    """One server, a stream, and what is done to it."""
    return Scenario(
        name=f"engine/{name}",
        description=description,
        topology=alone(drain_s=drain_s),
        workload=workload or [STREAM],
        faults=faults,
        expect=list(expect),
        stacks=SERVERS,
        **{"idle_s": 10.0, "stop_grace_s": 20.0} | fields,  # type: ignore[arg-type]
    )


child_killed = server(
    "child_killed",
    "The engine child is killed: the client is told at once, health says so, and the server's end tells that it failed.",
    [on_token(64).inject(kill_engine(serving)), after_fault(0, delay_s=0.5).inject(check_health())],
    ends_cleanly(),
    silent_at_most(ms=1_000),
    health_is("unhealthy"),
    exits_as("failure"),
)

rank_killed = server(
    "rank_killed",
    "A process that holds a part of the model is killed: the client is told at once, and the server's end says that it failed.",
    [on_token(64).inject(kill_rank(serving))],
    ends_cleanly(),
    silent_at_most(ms=1_000),
    exits_as("failure"),
)

server_killed = server(
    "server_killed",
    "The server's main process is killed: the connection breaks, and none of its other processes outlives it.",
    [on_token(64).inject(kill(serving))],
    fails_with("broken"),
    silent_at_most(ms=1_000),
    exits_as("SIGKILL"),
)

terminated = server(
    "terminated",
    "The server is told to end in mid-stream: the stream is finished, or ends with an error that says so.",
    [on_token(64).inject(terminate(serving, grace_s=25, then="kill"))],
    ends_cleanly(),
    exits_as(0),
    drain_s=0,  # the default of vLLM: what runs is given up
)

draining = server(
    "draining",
    "The server is told to end and finishes what it has: what its health says is what a new request meets.",
    [
        on_token(64).inject(terminate(serving, grace_s=60, then="kill")),
        after_fault(0, delay_s=0.5).inject(check_health()),
    ],
    ends_cleanly(request=0),
    health_agrees(),
    exits_as(0),
    workload=[LONG, NEXT],
    drain_s=60,
)

frozen = server(
    "frozen",
    "The engine child is stopped for a while: its server's health says that nobody is served.",
    [on_token(64).inject(freeze_engine(serving)), after_fault(0, delay_s=3).inject(check_health())],
    health_agrees(),
    workload=[STREAM, NEXT],
    idle_s=6.0,
)

client_left = server(
    "client_left",
    "The client goes away in mid-stream: the engine gives the request up, and serves the next.",
    [on_token(64).inject(disconnect())],
    cancelled_within(ms=1_000),
    aborted_in("aggregated"),
    no_tokens_after_abort(),
    slots_freed(),
    still_serves(),
    workload=[STREAM, completion("And then", max_tokens=8, after=0)],
)
