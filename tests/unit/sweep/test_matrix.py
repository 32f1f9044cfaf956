"""From a file to cells: which there are, what they are called, and what is wrong with a file."""

from pathlib import Path

import pytest

from ftharness.logs import TomlError
from ftharness.scenario.library import find
from ftharness.scenario.planted import can_show
from ftharness.sweep import Planned, chosen, load
from ftharness.sweep.file import Include, Matrix, SweepFile

ROOT = Path(__file__).parents[3]


def cells(tmp_path: Path, text: str) -> list[Planned]:
    (tmp_path / "sweep.toml").write_text(text)
    return load(tmp_path / "sweep.toml").cells


def names(tmp_path: Path, text: str) -> list[str]:
    return [cell.name for cell in cells(tmp_path, text)]


def test_every_combination_is_a_cell(tmp_path: Path) -> None:
    """In an order that is the file's, each axis in the one before it; a family and one of it are no cell twice."""
    text = """
    [matrix]
    scenarios = ["migration/drain", "cancellation/reset", "cancellation/reset"]
    engines = ["all"]
    bugs = ["", "drop-token"]
    seeds = [0, 7]
    set = {max_tokens = [100, 260]}
    """
    found = names(tmp_path, text)
    assert len(found) == 2 * 3 * 2 * 2 * 2
    assert found[:3] == [
        "migration/drain sim vllm max_tokens=100",
        "migration/drain sim vllm seed=7 max_tokens=100",
        "migration/drain sim vllm max_tokens=260",
    ]
    assert found[-1] == "cancellation/reset sim trtllm bug=drop-token seed=7 max_tokens=260"
    last = cells(tmp_path, text)[-1]
    assert (last.place, last.folder, last.cell.bug, last.cell.engine) == (
        47,
        "48-cancellation-reset",
        "drop-token",
        "trtllm",
    )
    assert (last.cell.scenario.seed, last.cell.scenario.workload[0].max_tokens) == (7, 260)


def test_excluded_and_included(tmp_path: Path) -> None:
    """An exclude takes what fits all of it; an include stands behind the matrix; repeats are rounds of the whole."""
    text = """
    repeat = 2
    [matrix]
    scenarios = ["migration/drain"]
    engines = ["vllm", "sglang"]
    seeds = [1, 2]
    set = {speed = [200, 400]}
    [[exclude]]
    engine = "s*"
    seed = 1
    [[exclude]]
    set = {speed = 400}
    [[include]]
    scenario = "cancellation/reset"
    """
    one = [
        "migration/drain sim vllm seed=1 speed=200",
        "migration/drain sim vllm seed=2 speed=200",
        "migration/drain sim sglang seed=2 speed=200",
        "cancellation/reset sim vllm",
    ]
    assert names(tmp_path, text) == [f"{name} #{n}" for n in (1, 2) for name in one]


def test_names_and_contents_stay(tmp_path: Path) -> None:
    """Read again they are the same; what a cell runs is told from what it ran, whatever its name."""
    text = '[matrix]\nscenarios = ["mine.py"]\n'
    mine = "from ftharness.scenario import Scenario\nx = Scenario(name='a/b', workload=[], deadline_s={})\n"
    (tmp_path / "mine.py").write_text(mine.format(5))
    first = cells(tmp_path, text)
    assert cells(tmp_path, text) == first
    (tmp_path / "mine.py").write_text(mine.format(60))
    (changed,) = cells(tmp_path, text)
    assert (changed.name, changed.folder) == (first[0].name, first[0].folder)
    assert changed.content != first[0].content


def test_secrets_are_in_no_name(tmp_path: Path) -> None:
    """A name is printed and stored; an argument's secret is neither."""
    text = """
    [matrix]
    scenarios = ["migration/drain"]
    set = {worker_args = [["--api-key=s3cret-of-mine"]]}
    """
    (cell,) = cells(tmp_path, text)
    assert cell.name == 'migration/drain sim vllm worker_args=["--api-key=***"]'
    assert cell.cell.scenario.topology.worker_args == ["--api-key=s3cret-of-mine"]


WRONG = [
    ('[matrix]\nscenarios = ["migraton/drain"]', r"sweep\.toml:2: no scenario .*did you mean migration/drain\?"),
    ('[matrix]\nscenarios = ["migration/drain"]\nstacks = ["simm"]', r"sweep\.toml:3: .*did you mean sim\?"),
    (
        '[matrix]\nscenarios = ["migration/drain"]\nengines = ["vlm"]',
        r"sweep\.toml:1: migration/drain sim vlm: .*mean vllm\?",
    ),
    ('[matrix]\nscenarios = ["migration/drain"]\nsed = [1]', r"sweep\.toml:3: unknown key 'sed'"),
    ('[matrix]\nscenarios = ["migration/drain"]\nseeds = []', r"sweep\.toml:3: seeds is empty"),
    ("[matrix]\nseeds = [1]", r"sweep\.toml:1: there is nothing to run"),
    ('repeat = 0\n[matrix]\nscenarios = ["migration/drain"]', r"sweep\.toml:1: repeat = 0: must be at least 1"),
    ('[matrix]\nscenarios = ["migration/drain"]\n[[exclude]]\nseed = 3', r"sweep\.toml:3: .*fits no cell"),
    ('[matrix]\nscenarios = ["migration/drain"]\n[[exclude]]\nseed = 0', r"sweep\.toml:3: every cell is excluded"),
    ('[matrix]\nscenarios = ["migration/drain"]\nseeds = [1, 1]', r"'migration/drain sim vllm seed=1' is there twice"),
    (
        '[matrix]\nscenarios = ["migration/*", "cancellation/*"]\nbugs = ["", "flat-backoff"]',
        r"sweep\.toml:3: .*the planted bug flat-backoff is one of a manager of pools.*pool/crash_loop is there to reveal",
    ),
    (
        '[matrix]\nscenarios = ["pool/*", "migration/drain"]\nbugs = ["flat-backoff"]',
        r"sweep\.toml:3: migration/drain: the planted bug flat-backoff .* would only pass; .*can show in it are drop-token",
    ),
    (
        '[matrix]\nscenarios = ["migration/drain"]\n[[include]]\nscenario = "migration/drain"\nbug = "flat-backoff"',
        r"sweep\.toml:3: migration/drain: the planted bug flat-backoff is one of a manager of pools",
    ),
    ('[[include]]\nscenario = "migration/drain"\nset = {tokn = 3}', r"sweep\.toml:1: .*did you mean token\?"),
]


@pytest.mark.parametrize("text,says", WRONG, ids=[says for _, says in WRONG])
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    """As an editor takes it, with the nearest name; nothing is started."""
    with pytest.raises(TomlError, match=says):
        cells(tmp_path, text)


def test_some_of_them(tmp_path: Path) -> None:
    """A pattern is of a whole name, or of its first words; one that fits nothing is refused."""
    found = cells(tmp_path, '[matrix]\nscenarios = ["migration/*"]\nengines = ["vllm", "sglang"]\nseeds = [1, 12]\n')
    assert len(chosen(found, [])) == len(found)
    assert [cell.name for cell in chosen(found, ["migration/drain sim sglang"])] == [
        "migration/drain sim sglang seed=1",
        "migration/drain sim sglang seed=12",
    ]
    assert len(chosen(found, ["*seed=1"])) == len(found) / 2
    assert len(chosen(found, ["migration/drain", "migration/prefill_failure * seed=12"])) == 6
    with pytest.raises(LookupError, match=r"fits no cell; did you mean migration/drain\?"):
        chosen(found, ["migration/dran"])


def test_the_example_is_a_sweep() -> None:
    """As it ships."""
    assert len(load(ROOT / "examples" / "sweep.toml").cells) == 11


def test_the_file_that_the_docs_show_is_one(tmp_path: Path) -> None:
    """As it stands; and each key that there is, is in it or told."""
    page = (ROOT / "docs" / "sweeps.md").read_text()
    found = names(tmp_path, page.partition("```toml\n")[2].partition("```")[0])
    assert found[0] == "migration/worker_failure sim vllm speed=200 #1"
    assert found[-1] == "migration/worker_failure sim trtllm bug=drop-token max_tokens=300 #2"
    keys = {*SweepFile.__struct_fields__, *Matrix.__struct_fields__, *Include.__struct_fields__} - {"sut_python"}
    assert [key for key in sorted(keys) if key not in page] == []


CROSSED = """
[matrix]
scenarios = ["migration/drain", "pool/crash_loop", "cancellation/*"]
bugs = ["", "drop-token", "flat-backoff", "handed-on-anyway"]
"""


def test_a_cell_in_which_its_bug_cannot_show_is_left_out(tmp_path: Path) -> None:
    """It would only pass. What is left out is said by bug; whoever crosses bugs with scenarios has to name no pair."""
    (tmp_path / "sweep.toml").write_text(CROSSED)
    found = load(tmp_path / "sweep.toml")
    with_bug = [cell for cell in found.cells if cell.cell.bug]
    assert all(can_show(cell.cell.bug, cell.cell.scenario) for cell in with_bug)
    assert [cell.name for cell in with_bug if "flat-backoff" in cell.name] == [
        "pool/crash_loop sim vllm bug=flat-backoff"
    ]
    assert "migration/drain sim vllm bug=drop-token" in [cell.name for cell in with_bug]
    assert len([cell for cell in found.cells if not cell.cell.bug]) == len(find(["cancellation/*"])) + 2
    assert [cell.place for cell in found.cells] == list(range(len(found.cells)))
    assert (
        found.left_out[0]
        == "drop-token is a bug of the frontend and its workers; without that, and left out: pool/crash_loop"
    )
    assert found.left_out[1].startswith(
        "flat-backoff is a bug of a manager of pools; without that, and left out: migration/drain, "
    )
    assert found.left_out[2].startswith(
        "handed-on-anyway is a bug of prefill workers; without that, and left out: migration/drain, pool/crash_loop, "
    )
    assert len(found.left_out) == 3


def test_what_is_set_decides_where_a_bug_can_show(tmp_path: Path) -> None:
    """Then it is the cells that are named, and not their scenario, which runs in others."""
    text = """
    [matrix]
    scenarios = ["coordinator/poison_batch"]
    bugs = ["poison-for-ever"]
    set = {ranks = [0, 2]}
    """
    (tmp_path / "sweep.toml").write_text(text)
    found = load(tmp_path / "sweep.toml")
    assert [cell.name for cell in found.cells] == ["coordinator/poison_batch sim vllm bug=poison-for-ever ranks=2"]
    (words,) = found.left_out
    assert words.endswith("left out: coordinator/poison_batch sim vllm bug=poison-for-ever ranks=0")


def test_an_exclude_may_name_what_would_be_left_out(tmp_path: Path) -> None:
    """It fits a cell of the matrix, and nothing more is said of that."""
    (tmp_path / "sweep.toml").write_text(
        '[matrix]\nscenarios = ["migration/drain", "pool/crash_loop"]\nbugs = ["", "drop-token"]\n'
        '[[exclude]]\nscenario = "pool/*"\nbug = "drop-token"\n'
    )
    found = load(tmp_path / "sweep.toml")
    assert (len(found.cells), found.left_out) == (3, [])
