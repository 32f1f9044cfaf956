"""What an engine is told: one value that the worker parses, hands to its engine child, and nobody changes."""

import argparse
from typing import NamedTuple

ENGINES = ("vllm", "sglang", "trtllm")
#: What a worker does of a request: both phases, or one.
ROLES = ("aggregated", "prefill", "decode")

#: When an engine in shadow mode does not wake: when it takes the lock from another, or also when it is the first.
WAKE_FAILS = ("never", "takeover", "always")


class Strategy(NamedTuple):
    """In which order the frontend and the workers of a disaggregated stack come to a request.

    Attributes:
        first: The role that the frontend gives a request to.
        then: The role that has to take part, too; "" if none.
        routed: Whether the frontend asks the second one itself. Otherwise the first one does.
    """

    first: str
    then: str = ""
    routed: bool = False


#: By the name that ``--strategy`` takes; the first is that of workers which do both phases.
STRATEGIES = {
    "aggregated": Strategy("aggregated"),
    "decode_first": Strategy("decode", "prefill"),
    "prefill_first": Strategy("prefill", "decode"),
    "frontend_routed": Strategy("prefill", "decode", routed=True),
}


class EngineSettings(NamedTuple):
    """How the engine behaves.

    Attributes:
        engine: Whose log lines the handler writes.
        speed: Tokens per second and stream.
        slots: Streams that run at once; the others queue.
        prefill_tokens_per_s: How fast a prompt is read.
        kv_tokens_per_s: How fast the KV of a context is sent to another worker.
        bug: A planted bug's name, or nothing.
    """

    engine: str = "vllm"
    speed: float = 200.0
    slots: int = 256
    prefill_tokens_per_s: float = 100_000.0
    kv_tokens_per_s: float = 400_000.0
    bug: str = ""

    def argv(self) -> list[str]:
        """The arguments from which :func:`settings_of` makes the same value again."""
        return [
            *("--engine", self.engine, "--speed", repr(self.speed), "--slots", str(self.slots)),
            *("--prefill-tokens-per-s", repr(self.prefill_tokens_per_s)),
            *("--kv-tokens-per-s", repr(self.kv_tokens_per_s), "--bug", self.bug),
        ]


def _above_zero(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """The engine's flags, for the worker of ours, Dynamo's, and the engine child."""
    default = EngineSettings()
    parser.add_argument("--engine", choices=ENGINES, default=default.engine, help="whose dialect the log speaks")
    parser.add_argument("--speed", type=_above_zero, default=default.speed, help="tokens/s of a stream")
    parser.add_argument("--slots", type=int, default=default.slots, help="streams that run at once")
    parser.add_argument("--prefill-tokens-per-s", type=_above_zero, default=default.prefill_tokens_per_s)
    parser.add_argument("--kv-tokens-per-s", type=_above_zero, default=default.kv_tokens_per_s)
    parser.add_argument("--bug", default="", help="a planted bug, see bugs.py")


def add_worker_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of a handler, ours or Dynamo's, and those of its engine."""
    parser.add_argument("--name", required=True)
    parser.add_argument("--role", choices=ROLES, default=ROLES[0])
    parser.add_argument("--drain-s", type=float, default=30.0, help="what SIGTERM leaves to running requests")
    parser.add_argument("--status-port", type=int, default=0, help="0: any, see the log")
    parser.add_argument("--seed", type=int, default=0, help="for requests that bring none")
    parser.add_argument("--wake-s", type=float, default=0.05, help="of an engine in shadow mode: what its waking takes")
    parser.add_argument(
        "--wake-fails", choices=WAKE_FAILS, default=WAKE_FAILS[0], help="the same: whether it wakes at all"
    )
    parser.add_argument(
        "--fence-s", type=float, help="the same: asleep, it kills a holder of the lock silent for so long"
    )
    add_engine_arguments(parser)


def settings_of(arguments: argparse.Namespace) -> EngineSettings:
    """The engine's settings among parsed arguments."""
    return EngineSettings(*(getattr(arguments, name) for name in EngineSettings._fields))
