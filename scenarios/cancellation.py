"""Cancellation: a client goes away, and what it had asked for is given up everywhere, at once, and nowhere else."""

import random
from collections.abc import Iterator

from ftharness.client import Request, chat, completion
from ftharness.faults import (
    cancel_task,
    client_of,
    disconnect,
    frontend,
    half_close,
    kill,
    kill_client,
    named,
    reset,
    serving,
    terminate,
)
from ftharness.scenario import (
    Expect,
    Injection,
    Scenario,
    aborted_in,
    cancellations_counted,
    cancelled_within,
    ends_as_asked,
    exits_as,
    fails_with,
    kv_freed,
    logged,
    never_reached,
    no_tokens_after_abort,
    not_migrated,
    on_log,
    on_token,
    slots_freed,
    still_serves,
    succeeds,
    tokens_exact,
)
from ftharness.stack import Topology, aggregated, disaggregated

# A stream of 1 s, and the request that its worker is to answer afterwards.
STREAM = completion(max_tokens=200)
NEXT = completion("And then", max_tokens=20, after=0)


def left_nothing(*, ms: float) -> list[Expect]:
    """What a stack can be held to, whoever's client left: the request is nowhere any more, and took nothing with it."""
    return [cancelled_within(ms=ms), no_tokens_after_abort(), slots_freed(), kv_freed(), ends_as_asked()]


LEFT_NOTHING = left_nothing(ms=500)

# A documented behaviour: whether a worker counts every cancellation. One that finds its stream broken before it is told does
# not, where that is another path.
WORKERS_COUNT = "worker_counts_cancellations"


def counted_once(*, workers: int) -> list[Expect]:
    """The frontend counts one cancellation, and each of so many workers, where workers can be held to that."""
    return [
        cancellations_counted(frontend=1, workers=workers).where(WORKERS_COUNT),
        cancellations_counted(frontend=1, workers=None).where(f"!{WORKERS_COUNT}"),
    ]


# And where one worker of a frontend that lives had it.
GIVEN_UP = [
    *LEFT_NOTHING,
    aborted_in("aggregated"),
    *counted_once(workers=1),
    logged("client_disconnected", role="frontend"),
    still_serves(),
]

# A documented behaviour: whether a client that shuts down its sending side is still waited for. A server that reads the end of
# a connection cannot tell that client from one that is gone, except by writing to it; so most of them take it for a disconnect.
WAITED_FOR = "half_close_completes"


def one_worker(name: str, description: str, first: Request, fault: Injection, *expect: Expect) -> Scenario:
    """One worker, a request that a client goes away from, and one that follows."""
    return Scenario(
        name=f"cancellation/{name}",
        description=description,
        topology=aggregated(workers=1),
        workload=[first, NEXT],
        faults=[fault],
        expect=list(expect or GIVEN_UP),
    )


# A moment after the worker has the request: it is in the engine then, and the answer, in one piece, still far.
IN_THE_ENGINE = on_log("request_received", delay_s=0.1)

aggregated_completion = one_worker(
    "aggregated",
    "The client of a completion that comes in one piece disconnects before it does.",
    completion(max_tokens=200, stream=False),
    IN_THE_ENGINE.inject(disconnect()),
)

aggregated_chat = one_worker(
    "aggregated_chat",
    "The client of a chat that comes in one piece disconnects before it does.",
    chat(max_tokens=200, stream=False),
    IN_THE_ENGINE.inject(disconnect()),
)

aggregated_chat_stream = one_worker(
    "aggregated_chat_stream",
    "The client of a streamed chat disconnects when it has read five tokens.",
    chat(max_tokens=200),
    on_token(5).inject(disconnect()),
)

reset_ = one_worker(
    "reset", "The client resets its connection in mid-stream.", STREAM, on_token(30).inject(reset(client_of(0)))
)

client_killed = one_worker(
    "client_killed",
    "The process that sent the request is killed in mid-stream.",
    completion(max_tokens=200, own_process=True),
    on_token(30).inject(kill_client()),
)

task_cancelled = one_worker(
    "task_cancelled",
    "The asyncio task that awaits the answer is cancelled, and closes its connection.",
    STREAM,
    on_token(30).inject(cancel_task()),
)

half_closed = one_worker(
    "half_close",
    "The client shuts down its sending side and waits: it gets all of the answer, or is taken for gone; nothing in between.",
    STREAM,
    on_token(30).inject(half_close()),
    succeeds().where(WAITED_FOR),
    tokens_exact().where(WAITED_FOR),
    cancellations_counted(frontend=0, workers=0).where(WAITED_FOR),
    fails_with("broken").where(f"!{WAITED_FOR}"),
    cancellations_counted(frontend=1, workers=None).where(f"!{WAITED_FOR}"),
    slots_freed(),
    kv_freed(),
)

queued = Scenario(
    name="cancellation/queued",
    description="The client of a request that still waits for a slot disconnects: it leaves the queue, and nobody's place.",
    topology=aggregated(workers=1, slots=1),
    workload=[STREAM, completion("Another", max_tokens=200, at_s=0.05), completion("And then", max_tokens=20, after=1)],
    faults=[on_token(30).inject(disconnect(client_of(1)))],
    expect=[*GIVEN_UP, not_migrated()],
)

in_migration = Scenario(
    name="cancellation/in_migration",
    description="The worker is killed, and while the request moves its client disconnects: it is not carried on with.",
    topology=aggregated(workers=2),
    workload=[STREAM],
    faults=[
        on_token(30).inject(kill(serving)),
        on_log("migration_started", source="frontend").inject(disconnect()),
    ],
    expect=[*LEFT_NOTHING, cancellations_counted(frontend=1, workers=None), exits_as("SIGKILL")],
)

frontend_draining = Scenario(
    name="cancellation/frontend_draining",
    description="The frontend was told to end and finishes what it has; the client of that disconnects: it has nothing left.",
    topology=aggregated(workers=1),
    workload=[STREAM],
    faults=[
        on_token(30).inject(terminate(frontend, grace_s=10)),
        on_token(60).inject(disconnect()),
    ],
    expect=[*LEFT_NOTHING, aborted_in("aggregated"), exits_as(0, source="frontend")],
)

# Prefill and decode apart. At 50,000 tokens a second a prefill of 0.6 s; the KV then takes half a second to move.
LONG_PROMPT = completion("Once upon a time " * 1800, max_tokens=50, stream=False)
READS_SLOWLY = {"prefill_tokens_per_s": 50_000.0}
MOVES_SLOWLY = {"prefill_tokens_per_s": 200_000.0, "kv_tokens_per_s": 60_000.0}

IN_PREFILL = on_log("request_received", source="prefill-1", delay_s=0.1)
IN_TRANSFER = on_log("request_received", source="decode-1", delay_s=0.1)


def both_phases(
    name: str, description: str, topology: Topology, first: Request, fault: Injection, expect: list[Expect]
) -> Scenario:
    """A prefill worker and a decode worker, a request that a client goes away from, and one that follows."""
    return Scenario(
        name=f"cancellation/{name}",
        description=description,
        topology=topology,
        workload=[first, NEXT],
        faults=[fault],
        expect=[*expect, still_serves(), logged("client_disconnected", role="frontend")],
    )


# In the phase of the decode: that worker gives the request up, and the other, which held its KV, is told so.
DECODE_GAVE_UP = [*LEFT_NOTHING, aborted_in("decode", remote="prefill"), cancellations_counted(frontend=1, workers=2)]

# In the phase of the prefill, of which nobody else knows yet.
PREFILL_ALONE_GAVE_UP = [
    *LEFT_NOTHING,
    aborted_in("prefill"),
    never_reached("decode"),
    cancellations_counted(frontend=1, workers=1),
]

# A documented behaviour: whether the prefill worker is told of a cancellation in the decode, for it may still hold the KV.
TELLS_PREFILL = "cancelled_decode_tells_prefill"

decode_cancel = both_phases(
    "decode_cancel",
    "Decode first. The client leaves in the decode: the decode worker gives the request up, the prefill worker hears of it.",
    disaggregated(strategy="decode_first"),
    chat(max_tokens=200),
    on_token(5).inject(disconnect()),
    DECODE_GAVE_UP,
)

remote_prefill_cancel = both_phases(
    "remote_prefill_cancel",
    "Decode first. The client leaves in the prefill: the prefill worker gives the request up, the decode worker hears of it.",
    disaggregated(strategy="decode_first", **READS_SLOWLY),
    LONG_PROMPT,
    IN_PREFILL.inject(disconnect()),
    [*LEFT_NOTHING, aborted_in("prefill", remote="decode"), cancellations_counted(frontend=1, workers=2)],
)

prefill_cancel = both_phases(
    "prefill_cancel",
    "Prefill first. The client leaves in the prefill: the prefill worker gives the request up, the decode worker never sees it.",
    disaggregated(strategy="prefill_first", **READS_SLOWLY),
    LONG_PROMPT,
    IN_PREFILL.inject(disconnect()),
    PREFILL_ALONE_GAVE_UP,
)

remote_decode_cancel = both_phases(
    "remote_decode_cancel",
    "Prefill first. The client leaves in the decode: the decode worker gives the request up, the prefill worker hears of it.",
    disaggregated(strategy="prefill_first"),
    chat(max_tokens=200),
    on_token(5).inject(disconnect()),
    DECODE_GAVE_UP,
)

transfer_cancel = both_phases(
    "transfer_cancel",
    "Prefill first. The client leaves while the KV moves: the decode worker gives the request up, both free its KV.",
    disaggregated(strategy="prefill_first", **MOVES_SLOWLY),
    LONG_PROMPT,
    IN_TRANSFER.inject(disconnect()),
    DECODE_GAVE_UP,
)

routed_decode_cancel = both_phases(
    "routed_decode_cancel",
    "The frontend asks the one, then the other. The client leaves in the decode.",
    disaggregated(strategy="frontend_routed"),
    chat(max_tokens=200),
    on_token(5).inject(disconnect()),
    [
        *LEFT_NOTHING,
        aborted_in("decode", remote="prefill").where(TELLS_PREFILL),
        aborted_in("decode").where(f"!{TELLS_PREFILL}"),
        *counted_once(workers=2),
    ],
)

# Another: whether a cancellation in the prefill reaches the prefill worker at all. If not, the prefill goes on to its end, the
# decode worker is asked, and told at once.
STOPS_PREFILL = "prefill_cancel_reaches_prefill"

routed_prefill_cancel = both_phases(
    "routed_prefill_cancel",
    "The frontend asks the one, then the other. The client leaves in the prefill: the decode worker is never asked.",
    disaggregated(strategy="frontend_routed", **READS_SLOWLY),
    LONG_PROMPT,
    IN_PREFILL.inject(disconnect()),
    [
        *(expect.where(STOPS_PREFILL) for expect in PREFILL_ALONE_GAVE_UP),
        *(expect.where(f"!{STOPS_PREFILL}") for expect in left_nothing(ms=1_500)),
        aborted_in("decode").where(f"!{STOPS_PREFILL}"),
        cancellations_counted(frontend=1, workers=None).where(f"!{STOPS_PREFILL}"),
    ],
)

STORM = 200


def every_second_leaves(seed: int) -> Iterator[Injection]:
    """Half of the clients go, each after a random number of tokens, in a random way."""
    dice = random.Random(seed)  # noqa: S311 - a schedule, not a secret
    ways = [disconnect, reset, cancel_task]
    for place in range(0, STORM, 2):
        way = dice.choice(ways)
        yield on_token(dice.randint(1, 6), request=place).inject(way(client_of(place)))


storm = Scenario(
    name="cancellation/storm",
    description="200 clients, of which every second goes away at a random token, and one of two workers is killed meanwhile.",
    topology=aggregated(workers=2, speed=10),
    workload=[completion(f"Story {place}", max_tokens=16, at_s=0.002 * place) for place in range(STORM)],
    # When the last has a token, all run: Dynamo does not move a request whose worker is lost before the answer has begun.
    faults=[*every_second_leaves(seed=0), on_token(2, request=STORM - 1).inject(kill(named("worker-1")))],
    expect=[*left_nothing(ms=1_000), cancellations_counted(frontend=STORM // 2, workers=None), exits_as("SIGKILL")],
)
