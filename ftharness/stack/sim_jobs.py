"""The jobs of the stack ``sim``: our own programs, each with a folder for its data, on a disk of its own if it asks for one."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import ftharness
from ftharness.engine.job_arguments import check_arguments
from ftharness.engine.job_settings import JobSettings
from ftharness.logs import load_contract
from ftharness.process import log_event
from ftharness.process.small_disk import hold_argv
from ftharness.stack.job import DISK, JOB, Job, JobPlan, JobPlans, JobWork, is_control, job_name
from ftharness.stack.plan import Launch, NotApplicable, NotAvailable, Settings

_PROGRAM = 3  # where the program's name stands in a job's command: behind the interpreter, -m and the module


def sim_jobs(settings: Settings, manager_url: str = "") -> JobPlans:
    """What is launched for the jobs of a scenario.

    Args:
        settings: The run's.
        manager_url: Where the manager of pools is asked; "": there is none.

    Raises:
        NotAvailable: torch is not installed.
        NotApplicable: A job leases engines, and there is no manager.
        ValueError: A job has an argument that is none of its program's, or does not fit; says which.
    """
    if any(job.program == "leases" for job in settings.jobs) and not manager_url:
        raise NotApplicable("it has a job that leases engines, and no pool manager: topology=pooled(PoolConfig(…))")
    if any(job.program == "inference" for job in settings.jobs) and find_spec("torch") is None:
        raise NotAvailable("jobs of inference need torch, which is not installed: pip install 'ftharness[torch]'")
    return JobPlans(
        control=[
            _planned(job, job_name(place, control=True), settings, manager_url)
            for place, job in enumerate(settings.jobs)
        ],
        fault=[_planned(job, job_name(place), settings, manager_url) for place, job in enumerate(settings.jobs)],
    )


def _planned(job: Job, name: str, settings: Settings, manager_url: str) -> JobPlan:
    data = (settings.folder / "jobs" / name).absolute()
    argv = [sys.executable, "-m", "ftharness.engine.job", job.program]
    argv += ["--name", name, "--data", str(data)]
    if job.program == "leases":
        # Nobody tells the run without the faults to end: it does when its count is full.
        argv += ["--url", manager_url, *(["--control"] if is_control(name) else [])]
    else:
        argv += ["--seed", str(settings.seed), *(["--bug", settings.bug] if settings.bug else [])]
    argv += job.arguments()
    try:
        told = check_arguments(argv[_PROGRAM:])
    except ValueError as error:
        raise ValueError(f"the job {name}, {job.program}: {error}") from None
    disk = _disk(name.replace(JOB, DISK), data, job.disk_mb) if job.disk_mb is not None else None
    return JobPlan(
        job=Launch(
            name=name,
            role=JOB,
            argv=argv,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            contract=load_contract("job", ftharness.__version__),
            ready=[log_event("job_started")],
            data=data,
            inside=disk.name if disk else "",
        ),
        disk=disk,
        work=_work(told),
    )


def _work(told: JobSettings | None) -> JobWork:
    """How a job goes about it; one that leases keeps nothing, and is one process."""
    if told is None:
        return JobWork()
    return JobWork(ranks=told.ranks, checkpoints=[told.most_checkpoints(rank) for rank in range(told.shards)])


def _disk(name: str, folder: Path, size_mb: int) -> Launch:
    return Launch(
        name=name,
        role=DISK,
        argv=hold_argv(folder, size_mb),
        env=os.environ,
        contract=load_contract("disk", ftharness.__version__),
        ready=[log_event("disk_ready")],
    )
