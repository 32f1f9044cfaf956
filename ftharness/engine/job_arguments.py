"""The arguments of a job's programs: read by the job itself, and looked at beforehand by who is about to start it."""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from ftharness.engine.bugs import BUGS
from ftharness.engine.job_settings import JobSettings

#: More processes than a machine is likely to carry: a slip of the finger must not take it down.
MOST_RANKS = 64


class _Refusing(argparse.ArgumentParser):
    """Says what is wrong to its caller, and ends nothing."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def check_arguments(argv: Sequence[str]) -> JobSettings | None:
    """What a job of inference is told by these; None for another program.

    Raises:
        ValueError: A job cannot be started with them; says which argument, and why.
    """
    given = vars(parser_of(_Refusing).parse_args(argv))
    return JobSettings(**given) if given.pop("program") == "inference" else None


def parser_of(kind: type[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """What reads the program's name and its arguments."""
    parser = kind(
        prog="ftharness.engine.job", description="A job: work that one process does to its end.", allow_abbrev=False
    )
    programs = parser.add_subparsers(dest="program", required=True)
    _inference(programs.add_parser("inference", help="inference over items, with checkpoints", allow_abbrev=False))
    _leases(programs.add_parser("leases", help="leases of a pool's engines, again and again", allow_abbrev=False))
    return parser


def _inference(parser: argparse.ArgumentParser) -> None:
    default = JobSettings(name="", data=Path())
    parser.add_argument("--name", required=True, help="what the process is called")
    parser.add_argument("--data", type=Path, required=True, help="the folder that it keeps its checkpoints in")
    parser.add_argument("--seed", type=int, default=default.seed, help="of the model's weights")
    parser.add_argument("--bug", metavar="BUG", choices=["", *BUGS], default="", help="a planted bug, see bugs.py")
    parser.add_argument("--items", type=_at_least(1), default=default.items, help="how many there are to be done")
    parser.add_argument("--batch", type=_at_least(1), default=default.batch, help="items that are computed at once")
    parser.add_argument(
        "--checkpoint-every", type=_at_least(1), default=default.checkpoint_every, help="items in a checkpoint"
    )
    parser.add_argument(
        "--ranks",
        type=_at_least(0, MOST_RANKS),
        default=default.ranks,
        help="processes that share the items; 0: this one alone",
    )
    parser.add_argument("--batch-ms", type=_time, default=default.batch_ms, help="how long a batch takes")
    parser.add_argument(
        "--spot-retry-s", type=_time, default=default.spot_retry_s, help="until a preempted rank is tried again"
    )
    parser.add_argument(
        "--max-retries-transient", type=_at_least(0), default=default.max_retries_transient, help="of a rank"
    )
    parser.add_argument(
        "--max-retries-poison", type=_at_least(1), default=default.max_retries_poison, help="strikes on one batch"
    )


def _leases(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", required=True, help="what the process is called")
    parser.add_argument("--data", type=Path, required=True, help="its folder, in which it keeps nothing")
    parser.add_argument("--url", required=True, help="the manager's")
    parser.add_argument("--pool", default="main", help="of which pool")
    parser.add_argument("--count", type=_at_least(1), default=40, help="leases after which it ends")
    parser.add_argument("--concurrency", type=_at_least(1), default=4, help="holders at once")
    parser.add_argument("--hold-ms", type=_time, default=50.0, help="how long a lease is held")
    parser.add_argument("--tokens", type=_at_least(0), default=0, help="that an engine is asked for with each lease")
    parser.add_argument("--ttl-ms", type=_time, default=10_000.0, help="how long a lease may last")
    parser.add_argument(
        "--renew-ms", type=_time, default=0.0, help="until a holder renews its lease, each time; 0: never"
    )
    parser.add_argument("--retry-ms", type=_time, default=50.0, help="until one who was refused asks again")
    parser.add_argument("--patience-s", type=_time, default=20.0, help="without an answer of the manager")
    parser.add_argument("--gather", type=_yes_or_no, default=False, help="true: none is given back before all have one")
    parser.add_argument("--until-told", type=_yes_or_no, default=False, help="true: it goes on until SIGTERM")
    parser.add_argument("--control", action="store_true", help="nobody will tell it to end: its count does")


def _yes_or_no(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text}: true or false")
    return text == "true"


def _time(text: str) -> float:
    number = float(text)
    if not (math.isfinite(number) and number >= 0):
        raise argparse.ArgumentTypeError(f"{text}: must be 0 or more, and finite")
    return number


def _at_least(least: int, most: float = math.inf) -> Callable[[str], int]:
    def whole(text: str) -> int:
        number = int(text)
        if number < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        if number > most:
            raise argparse.ArgumentTypeError(f"{text} is more than {most}")
        return number

    return whole
