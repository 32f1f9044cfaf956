"""The command ``ftharness k8s render``."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftharness.answers import said

if TYPE_CHECKING:
    from ftharness.k8s import Deployment
    from ftharness.stack import Topology

k8s_app = typer.Typer(
    help="Dynamo on Kubernetes: the manifest of a topology. `run --stack k8s` applies one; docs/kubernetes.md says more.",
    no_args_is_help=True,
)


def _whole(low: int) -> Callable[[str], int]:
    """Reads a whole number of at least ``low``; typer's own words for what is none are of types."""

    def read(said: str) -> int:
        text = said.strip()
        if not (text.removeprefix("-").isascii() and text.removeprefix("-").isdigit()):
            raise typer.BadParameter(f"{said!r} is no whole number")
        if len(text) > _DIGITS:
            raise typer.BadParameter(f"{said}: has more than {_DIGITS} digits")
        if int(text) < low:
            raise typer.BadParameter(f"{said}: must be at least {low}")
        return int(text)

    return read


_DIGITS = 18


@k8s_app.callback()
def _k8s() -> None:
    """A group with one command is still a group."""


@k8s_app.command("render")
def render(
    scenario: Annotated[
        str, typer.Argument(metavar="[SCENARIO]", help="Whose topology; without one, the options' alone.")
    ] = "",
    workers: Annotated[
        int | None, typer.Option(parser=_whole(1), metavar="N", help="Workers that do prefill and decode.")
    ] = None,
    prefill: Annotated[
        int | None, typer.Option(parser=_whole(1), metavar="N", help="Prefill workers, beside --decode.")
    ] = None,
    decode: Annotated[
        int | None, typer.Option(parser=_whole(1), metavar="N", help="Decode workers, beside --prefill.")
    ] = None,
    migration_limit: Annotated[
        int | None, typer.Option(parser=_whole(0), metavar="N", help="How often a request may move.")
    ] = None,
    failover: Annotated[
        bool | None,
        typer.Option(
            "--failover/--no-failover",
            help="An active engine and a shadow in each worker's pod [default: as the scenario has it].",
        ),
    ] = None,
    engine: Annotated[str, typer.Option(help="vllm, sglang or trtllm.")] = "vllm",
    image: Annotated[str | None, typer.Option(help="Of the workers [default: Dynamo's own of the engine].")] = None,
    frontend_image: Annotated[str | None, typer.Option(help="[default: the workers'].")] = None,
    model: Annotated[str | None, typer.Option(help="[default: Qwen/Qwen3-0.6B].")] = None,
    gpus: Annotated[
        int | None, typer.Option(parser=_whole(0), metavar="N", help="Of each worker [default: 1].")
    ] = None,
    namespace: Annotated[str | None, typer.Option(help="[default: ftharness].")] = None,
    secret: Annotated[str | None, typer.Option(help="A secret's name; its keys become variables.")] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help='A stack\'s file (kind = "k8s"); options come before it.')
    ] = None,
    run: Annotated[str | None, typer.Option(metavar="ID", help="The run's name [default: a new one].")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to [default: standard output].")] = None,
) -> None:
    """Write the DynamoGraphDeployment of a topology, checked against its CRD's schema. Nothing is sent anywhere."""
    from ftharness.k8s.deployment import Deployment, checked_engine, read_deployment
    from ftharness.k8s.manifest_text import as_yaml
    from ftharness.k8s.names import new_run
    from ftharness.k8s.render import render as rendered

    with said():
        _not_empty(engine=engine, image=image, frontend_image=frontend_image, model=model, namespace=namespace, run=run)
        checked_engine(engine)
        given = {
            "image": image,
            "frontend_image": frontend_image,
            "model": model,
            "gpus": gpus,
            "namespace": namespace,
            "secret": secret,
            "failover": failover,
        }
        deployment = _changed(read_deployment(config) if config else Deployment(), given)
        topology = _topology(scenario, workers=workers, prefill=prefill, decode=decode, migration_limit=migration_limit)
        if failover is False:
            topology = _without_shadows(topology)
        manifest = rendered(topology, deployment, engine=engine, run=run or new_run()).manifest
        text = as_yaml(manifest)
        if out is None:
            typer.echo(text, nl=False)
        else:
            out.write_text(text, encoding="utf-8")
            typer.echo(out)


def _not_empty(**options: str | None) -> None:
    """An empty value is a variable of the caller's shell that is not set, and not a wish for the default."""
    for name, value in options.items():
        if value is not None and not value.strip():
            raise ValueError(f"--{name.replace('_', '-')} is empty; leave it out for its default")


def _without_shadows(topology: "Topology") -> "Topology":
    import msgspec

    return msgspec.structs.replace(topology, standbys=0, heartbeat_s=None, fence_s=None)


def _changed(deployment: "Deployment", given: dict[str, Any]) -> "Deployment":
    import msgspec

    return msgspec.structs.replace(deployment, **{key: value for key, value in given.items() if value is not None})


def _topology(
    scenario: str, *, workers: int | None, prefill: int | None, decode: int | None, migration_limit: int | None
) -> "Topology":
    """The scenario's, with what the options say instead."""
    import msgspec

    from ftharness.scenario.library import find
    from ftharness.stack import Topology, disaggregated

    if workers is not None and (prefill is not None or decode is not None):
        raise ValueError("--workers do both phases; with --prefill and --decode there are none")
    topology = find([scenario])[0].topology if scenario else Topology()
    changes: dict[str, Any] = {} if migration_limit is None else {"migration_limit": migration_limit}
    if workers is not None:
        changes |= {"workers": workers, "prefill": 0, "decode": 0, "strategy": None}
    if prefill is not None or decode is not None:
        apart = disaggregated(prefill=prefill or 1, decode=decode or 1, strategy="frontend_routed")
        changes |= {name: getattr(apart, name) for name in ("workers", "prefill", "decode", "strategy")}
    return msgspec.structs.replace(topology, **changes)
