"""What a manager's file may say."""

from pathlib import Path

import pytest

from ftharness.logs import TomlError
from ftharness.pool import PoolConfig, load_config

WHOLE = """\
port = 8123
state_dir = "state"
engines_survive = true
fail_mode = "open"

[[pool]]
id = "chat"
engine = "vllm"
model = "models/tiny"
device_mask = [0, "GPU-1"]
devices_per_engine = 1
replicas = 2
[pool.backoff]
initial_s = 0.5
[pool.probe]
path = "/healthz"

[[pool]]
id = "own"
engine = "profiles/own.toml"
model = "org/name"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "pool.toml"
    path.write_text(text)
    return path


def test_a_file_says_all_of_it(tmp_path: Path) -> None:
    """Paths are from its folder, where there is something; what is not said has its default."""
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "own.toml").write_text('what = "our own"\n')
    config = load_config(write(tmp_path, WHOLE))
    chat, own = config.pools
    assert (config.port, config.engines_survive, config.fail_mode) == (8123, True, "open")
    assert config.state_dir == str(tmp_path / "state")
    assert (chat.model, own.model) == (str(tmp_path / "models/tiny"), "org/name")
    assert own.engine == str(tmp_path / "profiles/own.toml")
    assert chat.engine_ids == ["chat-1", "chat-2"]
    assert chat.device_mask == [0, "GPU-1"]
    assert (chat.backoff.initial_s, chat.backoff.factor, chat.backoff.max_s) == (0.5, 2.0, 60.0)
    assert (chat.backoff.jitter, chat.backoff.stable_s) == (0.1, 300.0)
    assert (chat.breaker.restarts, chat.breaker.window_s) == (5, 60.0)
    assert chat.probe.path == "/healthz"
    assert load_config(write(tmp_path, '[[pool]]\nid = "p"\nengine = "sim"\n')).host == "127.0.0.1"


@pytest.mark.parametrize(
    "line, place, why",
    [
        ('id = "a b"', 2, "id = 'a b': it is at most 63"),
        ('id = "../x"', 2, "it is at most 63"),
        ("replicas = 0", 4, "int` >= 1"),
        ("replicas = 65", 4, "int` <= 64"),
        ("slots = 1", 4, "unknown key 'slots'; there are args, backoff, breaker, "),
        ("replcas = 2", 4, "unknown key 'replcas'; did you mean replicas?"),
        ("[pool.probe]\nintervall_s = 2", 5, "unknown key 'intervall_s'; did you mean interval_s?"),
        ('args = ["{prot}"]', 4, "pool 'p': unknown placeholder {prot}; there are bin, "),
        ('command = ["x", "{port.foo}"]', 4, "unknown placeholder {port.foo}; there are "),
        ("env = {A = '{modle}'}", 4, "unknown placeholder {modle}; there are "),
        ('model = "m"\nprovisioner = ["p", "{modle}"]', 5, "unknown placeholder {modle}; there are model"),
        ('provisioner = ["p"]', 4, "it is not asked for a model that has no name: set model"),
        ('engine = "vllm"', 1, "pool 'p': engine 'vllm' serves nothing without a model: set model"),
        ('digest = "abc"', 4, "64 hexadecimal digits"),
        ("lease_ttl_s = 0", 4, "> 0"),
        ('engine = "simm"', 3, "pool 'p': no engine profile 'simm'; did you mean sim?"),
        ('engine = "none.toml"', 3, "there is no such file"),
        ('user = "nosuch"', 4, "pool 'p': user 'nosuch': there is none on this machine"),
        ("[pool.container]\nimage = 'i'\nprogram = 'lxc'", 6, "it is one of 'auto', 'podman', 'docker'"),
        ("lease_ttl_s = nan", 4, "float"),
        ("lease_ttl_s = 4000", 4, "lease_ttl_s = 4000 is above lease_ttl_max_s = 3600"),
        ("device_mask = [0.5]", 4, "int | str"),
        ("device_mask = [0]\ndevices_per_engine = 2", 1, "are 2 devices; device_mask names 1"),
        ('pass_env = ["A B"]', 1, "'A B' is not the name of a variable"),
        ('args = ["a\\u0000b"]', 1, "a NUL byte"),
        ("[pool.backoff]\nmax_s = 0.5", 5, "max_s = 0.5 is below initial_s = 1"),
        ("[pool.backoff]\njitter = 1.0", 5, "< 1"),
        ("[pool.backoff]\nfactor = 0.5", 5, ">= 1"),
        ("[pool.probe]\npath = 'health'", 5, "it begins with a slash"),
        ("[pool.probe]\nunready_after = 3\nrestart_after = 2", 6, "restart_after = 2 is below unready_after = 3"),
        ("[pool.container]\nimage = '--privileged'", 5, "it is the name of an image"),
        ("[pool.container]\nimage = 'i'\nmounts = [{source = 'x', target = '/y'}]", 6, "it is a whole path"),
        ("[pool.container]\nimage = 'i'\nmounts = [{source = '/x:/etc', target = '/y'}]", 6, "a colon or a comma"),
    ],
)
def test_what_cannot_be_meant_is_told_with_its_line(tmp_path: Path, line: str, place: int, why: str) -> None:
    """The file, the line, or that of its table, and what is wrong."""
    text = (
        f'[[pool]]\nid = "p"\nengine = "sim"\n{line}\n'
        if not line.startswith(("id", "engine"))
        else f'[[pool]]\n{line}\nengine = "sim"\n'
        if line.startswith("id")
        else f'[[pool]]\nid = "p"\n{line}\n'
    )
    path = write(tmp_path, text)
    with pytest.raises(TomlError) as error:
        load_config(path)
    where, _, what = str(error.value).partition(": ")
    assert why in what
    assert int(where.rpartition(":")[2]) == place


def test_pools_have_names_of_their_own(tmp_path: Path) -> None:
    """Two of one name, none at all, a token in two places: nothing is started."""
    one = '[[pool]]\nid = "p"\nengine = "sim"\n'
    for text, why in (
        (one + one, r":5: pool\[1\].id = 'p': pool\[0\] has it, too"),
        ("port = 1\n", r"no \[\[pool\]\] in it"),
        ('token_file = "t"\ntoken_env = "T"\n' + one, "the token is in one place"),
        ('fail_mode = "maybe"\n' + one, "'maybe' at fail_mode; it is one of 'open', 'fast'"),
    ):
        with pytest.raises(TomlError, match=why):
            load_config(write(tmp_path, text))


def test_a_command_of_ones_own_has_to_be_given() -> None:
    """The profile has none."""
    with pytest.raises(ValueError, match="the profile 'command' has none of its own"):
        PoolConfig(id="p", engine="command")
