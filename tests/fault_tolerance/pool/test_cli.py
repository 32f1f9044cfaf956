"""``ftharness pool …`` as its users meet it: real processes, their statuses, what they say, and what they leave."""

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

FTHARNESS = [sys.executable, "-m", "ftharness", "pool"]
TOKEN = "0123456789abcdef-right"  # noqa: S105 - of these tests alone
SIM = '[[pool]]\nid = "p"\nengine = "sim"\n'


class Serving:
    """``pool serve`` in a process, and the commands that ask it."""

    def __init__(self, process: "subprocess.Popen[str]", url: str, folder: Path) -> None:
        self.process = process
        self.url = url
        self._folder = folder

    def call(self, *arguments: str, status: int = 0, **env: str) -> "subprocess.CompletedProcess[str]":
        """One command, and its end."""
        done = subprocess.run(
            [*FTHARNESS, *arguments],
            cwd=self._folder,
            env={**os.environ, "FTHARNESS_POOL_URL": self.url, **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    def begin(self, *arguments: str) -> "subprocess.Popen[str]":
        """One command that goes on."""
        return subprocess.Popen(
            [*FTHARNESS, *arguments],
            cwd=self._folder,
            env={**os.environ, "FTHARNESS_POOL_URL": self.url},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def status(self, pool: str = "p") -> dict[str, Any]:
        """All that is known of a pool, ready or not."""
        done = subprocess.run(
            [*FTHARNESS, "status", pool, "--json", "--url", self.url], capture_output=True, text=True, check=False
        )
        return dict(json.loads(done.stdout))

    def log(self, event: str) -> list[dict[str, Any]]:
        """Its log's lines of that name: each line is JSON."""
        lines = [json.loads(line) for line in (self._folder / "log").read_text().splitlines()]
        return [line for line in lines if line["event"] == event]

    def until_logged(self, event: str, count: int = 1) -> dict[str, Any]:
        """The ``count``-th line of that name; a file tells nobody when it grows."""
        deadline = time.monotonic() + 30
        while len(found := self.log(event)) < count:
            assert time.monotonic() < deadline, f"no {event}"
            assert self.process.poll() is None, (self._folder / "log").read_text()
            time.sleep(0.02)
        return found[count - 1]


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    """``serving(toml, *options)``: a manager of that file, which answers."""
    started: list[subprocess.Popen[str]] = []

    def serve(text: str = SIM, *options: str, prefix: Sequence[str] = (), **env: str) -> Serving:
        (tmp_path / "pool.toml").write_text(text)
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                [*prefix, *FTHARNESS, "serve", "--config", "pool.toml", "--port", "0", *options],
                cwd=tmp_path,
                env={**os.environ, **env},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        started.append(process)
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, (tmp_path / "log").read_text()
        return Serving(process, url, tmp_path)

    yield serve
    for process in started:
        process.terminate()
        process.communicate(timeout=30)


def test_a_manager_has_as_many_files_as_it_may_and_its_engines_as_many_as_it_began_with(
    serving: Callable[..., Serving],
) -> None:
    """With a soft limit of 64 it has more than a hundred connections at once, which say nothing, and still answers."""
    one = serving(prefix=["prlimit", "--nofile=64:4096"])
    one.until_logged("engine_ready")
    host, _, port = one.url.removeprefix("http://").partition(":")
    with contextlib.ExitStack() as open_ones:
        for _ in range(120):
            open_ones.enter_context(socket.create_connection((host, int(port))))
        one.call("lease", "p")
    pid = one.until_logged("engine_started")["pid"]
    limits = Path(f"/proc/{pid}/limits").read_text()
    (files,) = (line.split()[3:5] for line in limits.splitlines() if line.startswith("Max open files"))
    assert files == ["64", "4096"]


def test_clients_that_take_all_files_cost_no_engine(serving: Callable[..., Serving]) -> None:
    """Three hundred connections with room for a hundred: the healthy engine is not started again, and nothing is short of one."""
    text = f"{SIM}[pool.probe]\ninterval_s = 0.05\ntimeout_s = 20\nrestart_after = 2\n"  # too slow is another matter
    one = serving(text, prefix=["prlimit", "--nofile=128:128"])
    one.until_logged("engine_ready")
    host, _, port = one.url.removeprefix("http://").partition(":")
    with contextlib.ExitStack() as open_ones:
        mine = [open_ones.enter_context(socket.create_connection((host, int(port)))) for _ in range(300)]
        deadline = time.monotonic() + 30
        while len(select.select(mine, [], [], 1)[0]) < 200:  # those that were closed can be read
            assert time.monotonic() < deadline
    one.call("lease", "p")
    assert one.status()["restarts"] == 0
    assert not one.log("probe_failed")
    assert not one.log("message")


def test_an_operation_that_is_waited_for_when_the_manager_ends(serving: Callable[..., Serving]) -> None:
    """Whoever waits is told that no manager answers any more, and not that something else does."""
    one = serving()
    one.until_logged("engine_ready")
    one.call("lease", "p")
    waiting = one.begin("drain", "p", "--deadline-s", "60")
    one.until_logged("drain_begun")
    one.process.terminate()
    _, told = waiting.communicate(timeout=30)
    assert (waiting.returncode, "no manager answers" in told) == (3, True), told


@pytest.mark.parametrize("seconds", ["nan", "inf", "0", "soon"])
def test_a_time_that_is_none_is_refused(serving: Callable[..., Serving], seconds: str) -> None:
    """Before anything is asked; a longer time than a pool grants is told."""
    one = serving('[[pool]]\nid = "p"\nengine = "sim"\nlease_ttl_max_s = 100.0\n')
    assert "--ttl-s" in one.call("lease", "p", "--ttl-s", seconds, status=2).stderr
    one.until_logged("engine_ready")
    assert "it lasts 100 s, the most that this pool grants" in one.call("lease", "p", "--ttl-s", "900").stderr


def test_what_the_page_shows_works(serving: Callable[..., Serving], tmp_path: Path) -> None:
    """The test and the program of docs/pool.md, as they stand there, with the file that it begins with."""
    page = (Path(__file__).parents[3] / "docs" / "pool.md").read_text()
    toml = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)[0]
    a_test, a_program = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    one = serving(toml)
    one.until_logged("engine_ready")
    (tmp_path / "test_page.py").write_text(a_test)
    (tmp_path / "page.py").write_text(f"{a_program}\n\nimport asyncio\nasyncio.run(use())\n")
    env = {**os.environ, "FTHARNESS_POOL_URL": one.url}
    pytest_ = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "test_page.py"]
    done = subprocess.run(
        [sys.executable, *pytest_], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    one.process.terminate()
    one.process.wait(30)  # for the state folder
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_pool_is_shown_drained_and_resumed(serving: Callable[..., Serving]) -> None:
    """Each command waits for its end, says it, and its status is 0; that of ``status`` is 1 where a pool is not ready."""
    one = serving()
    one.until_logged("engine_ready")
    shown = one.call("status").stdout
    assert shown.startswith("p  ready  sim 1.0 p  4 of 4 slots free, 0 leased  0 restarts")
    assert "  p-1  ready  http://127.0.0.1:" in one.call("status", "p").stdout
    lease = json.loads(one.call("lease", "p", "--holder", "me", "--ttl-s", "50").stdout)
    assert (lease["holder"], lease["expires_ms"] - lease["granted_ms"]) == ("me", 50_000)
    draining = one.begin("drain", "p")
    one.until_logged("drain_begun")
    assert one.call("status", status=1).stdout.startswith("p  draining  sim")
    one.call("resume", "p")
    draining.communicate(timeout=30)
    refused = one.call("drain", "p", "--deadline-s", "0.1", "--on-timeout", "abort", status=1)
    assert "drain p: failed (aborted)" in refused.stdout
    assert "takes leases again" in refused.stderr
    assert one.call("release", "p", lease["id"]).stdout == "released\n"
    assert one.call("drain", "p").stdout == "drain p: succeeded (drained)\n"
    resume = "`ftharness pool resume p`"
    assert one.call("status", status=1).stdout.startswith(f"p  drained, until {resume}  sim")
    assert f"pool 'p' is draining, or was drained: {resume} has it serve" in one.call("lease", "p", status=1).stderr
    assert one.call("resume", "p").stdout == "resume p: succeeded (ready)\n"
    assert "new_model_ref: digest = 'zz': it is 64" in one.call("reload", "p", "m@sha256:zz", status=2).stderr
    reload = one.call("reload", "p", "/nothing", status=1)
    assert reload.stdout == "reload p: failed (rolled_back)\n"
    assert "/nothing" in reload.stderr
    assert one.call("reset-breaker", "p").stdout.startswith("reset_breaker p: succeeded")


def test_a_lease_is_held_while_a_command_runs(serving: Callable[..., Serving]) -> None:
    """Longer than its time to live; the command finds the engine, its status is ours, and then the lease is given back."""
    one = serving(SIM + "lease_ttl_s = 0.3\n")
    one.until_logged("engine_ready")
    program = "import os, sys, time; print(os.environ['FTHARNESS_LEASE_URL'], flush=True); time.sleep(1.2); sys.exit(7)"
    held = one.begin("lease", "p", "--", sys.executable, "-c", program)
    out, error = held.communicate(timeout=30)
    assert held.returncode == 7, error
    assert out.strip() == one.log("engine_ready")[0]["url"]
    leases = one.status()["leases"]
    assert leases == {"granted": 1, "held": 0, "released": 1, "expired": 0, "revoked": 0}


def test_a_command_whose_engine_dies_is_told_to_end(serving: Callable[..., Serving]) -> None:
    """By SIGTERM, and why is said; the status is 1, whatever the command makes of it."""
    one = serving()
    started = one.until_logged("engine_started")
    one.until_logged("engine_ready")
    program = "import sys, time; print('runs', flush=True); time.sleep(60)"
    held = one.begin("lease", "p", "--", sys.executable, "-c", program)
    assert held.stdout is not None
    assert held.stdout.readline() == "runs\n"
    os.kill(started["pid"], signal.SIGKILL)
    _, error = held.communicate(timeout=20)
    assert held.returncode == 1
    assert "was revoked: it ended by itself; the command is told to end" in error


def test_a_signal_goes_to_the_command_and_the_lease_is_given_back(serving: Callable[..., Serving]) -> None:
    """And the status tells of the signal, as a shell's does."""
    one = serving()
    one.until_logged("engine_ready")
    program = "import time; print('runs', flush=True); time.sleep(60)"
    held = one.begin("lease", "p", "--", sys.executable, "-c", program)
    assert held.stdout is not None
    held.stdout.readline()
    held.terminate()
    held.communicate(timeout=20)
    assert held.returncode == 128 + signal.SIGTERM
    assert one.status()["leases"]["released"] == 1


def test_a_command_whose_keeper_is_killed_is_told_to_end(serving: Callable[..., Serving]) -> None:
    """Nobody renews its lease any more: it would work on an engine that another has."""
    one = serving()
    one.until_logged("engine_ready")
    # One that goes on after the signal, to say that it came.
    program = "print('runs', flush=True); print(signal.sigwait([signal.SIGTERM]).name, flush=True)"
    blocks = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); signal.alarm(60); "
    held = one.begin("lease", "p", "--", sys.executable, "-c", blocks + program)
    assert held.stdout is not None
    assert held.stdout.readline() == "runs\n"
    held.kill()
    assert held.stdout.readline() == "SIGTERM\n"
    held.communicate(timeout=20)


def test_a_command_is_told_to_end_when_its_lease_does_though_the_manager_hangs(serving: Callable[..., Serving]) -> None:
    """Not when the call to renew it is given up, which is later: by then its slot may be another's."""
    one = serving()
    one.until_logged("engine_ready")
    program = "import time; print('runs', flush=True); time.sleep(60)"
    held = one.begin("lease", "p", "--ttl-s", "1", "--", sys.executable, "-c", program)
    assert held.stdout is not None
    assert held.stdout.readline() == "runs\n"
    one.process.send_signal(signal.SIGSTOP)
    try:
        stopped = time.monotonic()
        _, error = held.communicate(timeout=60)
        assert time.monotonic() - stopped < 8  # an answer is waited for for 10 s
    finally:
        one.process.send_signal(signal.SIGCONT)
    assert "could not be renewed in time; the command is told to end" in error


def test_a_command_that_is_none_keeps_no_lease(serving: Callable[..., Serving]) -> None:
    """Its name is said."""
    one = serving()
    one.until_logged("engine_ready")
    done = one.call("lease", "p", "--", "./no-such-command", status=2)
    assert done.stderr == "ftharness: ./no-such-command: No such file or directory\n"
    assert one.status()["leases"]["released"] == 1


def test_what_a_call_has_wrong_is_told_with_status_2(serving: Callable[..., Serving]) -> None:
    """A name with the nearest one, a value with what it may be; nothing of what went on inside."""
    one = serving(SIM.replace('"p"', '"pool-1"') + "preload = false\n")
    assert "no pool 'pool1'; did you mean pool-1?" in one.call("status", "pool1", status=2).stderr
    assert "no pool 'pool1'" in one.call("drain", "pool1", status=2).stderr
    assert "on_timeout" in one.call("drain", "pool-1", "--on-timeout", "wait", status=2).stderr
    assert "no lease 'x-1'" in one.call("release", "pool-1", "x-1", status=2).stderr
    assert "Missing argument" in one.call("reload", "pool-1", status=2).stderr
    assert "token cannot be read" in one.call("status", "--token-file", "nothing", status=2).stderr
    assert "no engine of pool 'pool-1' is ready" in one.call("lease", "pool-1", status=1).stderr
    for url in ("nonsense", "http://127.0.0.1:x", "ftp://127.0.0.1"):
        assert f"'{url}' is not where a manager is" in one.call("status", "--url", url, status=2).stderr


def test_a_manager_that_is_not_there_is_told_with_status_3(serving: Callable[..., Serving], tmp_path: Path) -> None:
    """Where it was looked for, and how one is started; so is what answers there and is none."""
    one = Serving(subprocess.Popen([sys.executable, "-V"], text=True), "", tmp_path)
    one.process.wait()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    told = one.call("status", "--url", f"http://127.0.0.1:{port}", status=3).stderr
    assert f"http://127.0.0.1:{port}: no manager answers" in told
    assert "ftharness pool serve" in told
    engine = serving()
    url = engine.until_logged("engine_ready")["url"]
    assert "no pool manager" in one.call("status", "--url", url, status=3).stderr


def test_a_manager_with_a_token_answers_those_who_have_it(serving: Callable[..., Serving], tmp_path: Path) -> None:
    """From a file, on both sides; it is in no line of the log, and in no command's arguments."""
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    one = serving('token_file = "token"\n' + SIM)
    one.until_logged("engine_ready")
    refused = one.call("status", status=2).stderr
    assert "wants its bearer token" in refused
    assert "--token-file, or FTHARNESS_POOL_TOKEN_FILE, says where it is" in refused
    assert one.call("status", "--token-file", "token").stdout.startswith("p  ready")
    assert TOKEN not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    "text, options, status, told",
    [
        (SIM, ["--host", "0.0.0.0"], 2, "takes a token: set token_file or token_env"),  # noqa: S104 - it is refused
        ('token_env = "POOL_TOKEN"\n' + SIM, [], 2, "the variable POOL_TOKEN, which should hold the token, is not set"),
        ("[[pool]]\nid = 'p'\n", [], 2, "pool.toml:1"),
        (SIM + "slots = 3\n", [], 2, "pool.toml:4: unknown key 'slots'"),
        (SIM + 'device_mask = ["GPU-nothing"]\n', [], 2, "GPU-nothing"),
        (SIM.replace("sim", "simm"), [], 2, "pool.toml:3: pool 'p': no engine profile 'simm'; did you mean sim?"),
        (SIM + 'args = ["--exit-at-start", "3"]\n', [], 1, "pool 'p' cannot be started"),
    ],
)
def test_a_manager_that_cannot_serve_says_why_and_ends(
    tmp_path: Path, text: str, options: list[str], status: int, told: str
) -> None:
    """Before anything starts, where the file or the call is wrong; fail-fast, where a pool cannot be started."""
    (tmp_path / "pool.toml").write_text(text)
    argv = [*FTHARNESS, "serve", "--config", "pool.toml", "--port", "0", *options]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_manager_is_told_who_has_the_state(serving: Callable[..., Serving], tmp_path: Path) -> None:
    """By pid and URL; status 3, and the first one goes on."""
    one = serving()
    argv = [*FTHARNESS, "serve", "--config", "pool.toml", "--port", "0"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert f"pid {one.process.pid}" in done.stderr
    assert one.url in done.stderr
    one.until_logged("engine_ready")


def test_the_same_command_twice_is_told_who_has_the_port(serving: Callable[..., Serving], tmp_path: Path) -> None:
    """The manager of the folder, as long as it is that one; of a stranger what can be done about it."""
    one = serving()
    port = one.url.rpartition(":")[2]
    for state, status, told in (("", 3, f"pid {one.process.pid}"), ('state_dir = "own"\n', 2, "--port 0 takes one")):
        (tmp_path / "again.toml").write_text(state + SIM)
        argv = [*FTHARNESS, "serve", "--config", "again.toml", "--port", port]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == status, done.stderr
        assert told in done.stderr
        assert not (tmp_path / "own").exists()
    one.until_logged("engine_ready")


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGHUP, 130)])
def test_a_manager_that_is_told_to_end_stops_its_engines(
    serving: Callable[..., Serving], number: int, status: int
) -> None:
    """Leases end, engines are stopped and said to be, and nothing of them is left."""
    one = serving()
    pid = one.until_logged("engine_started")["pid"]
    one.until_logged("engine_ready")
    waiting = one.begin("lease", "p", "--", sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)")
    assert waiting.stdout is not None
    waiting.stdout.readline()
    one.process.send_signal(number)
    _, error = waiting.communicate(timeout=20)  # at once, and not when its lease's minute is over
    assert waiting.returncode == 1
    assert "was revoked: the manager ends; the command is told to end" in error
    assert one.process.wait(timeout=30) == status
    assert not Path(f"/proc/{pid}").exists()
    assert one.log("engine_stopped")[0]["engine_id"] == "p-1"
    assert one.log("manager_stopped")[0]["reason"] == signal.Signals(number).name
