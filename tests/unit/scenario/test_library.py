"""Files of scenarios: each that cannot be used says which, in which line, and why."""

import sys
from pathlib import Path

import pytest

from ftharness.scenario.library import ScenarioFileError, find, load_file, shipped

HEAD = "from ftharness.scenario import Scenario\nfrom ftharness.client import completion\n\n"
GOOD = HEAD + "one = Scenario(name='mine/one', workload=[completion()])\n"


def written(folder: Path, text: str | bytes, name: str = "mine.py") -> Path:
    """A file of that content."""
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


BROKEN: list[tuple[str, str | bytes, str]] = [
    ("syntax", HEAD + "one = Scenario(\n", r"mine\.py:4: SyntaxError: '\(' was never closed"),
    ("indentation", HEAD + "  one = 1\n", r"mine\.py:4: IndentationError: unexpected indent"),
    ("an import", HEAD + "import nowhere_to_be_found\n", r"mine\.py:4: ModuleNotFoundError: .*nowhere_to_be_found"),
    ("a name", HEAD + "from ftharness.faults import kil\n", r"mine\.py:4: ImportError: cannot import name 'kil'"),
    ("its own error", HEAD + "def f():\n    return 1 / 0\n\nf()\n", r"mine\.py:5: ZeroDivisionError: division by zero"),
    ("a field", HEAD + "\none = Scenario(nme='a/b')\n", r"mine\.py:5: TypeError: Unexpected keyword argument 'nme'"),
    ("its own end", HEAD + "import sys\nsys.exit(0)\n", r"mine\.py:5: SystemExit: 0"),
    ("not text", b"x = '\xff'\n", r"mine\.py(:1)?: SyntaxError: .*'utf-8' codec"),
    ("none", HEAD, r"mine\.py: no Scenario at its top level"),
    ("hidden", HEAD + "def f():\n    return Scenario(name='a/b', workload=[])\n", "no Scenario at its top level"),
]


@pytest.mark.parametrize("name,text,says", BROKEN, ids=[one[0] for one in BROKEN])
def test_a_broken_file_says_where_and_why(tmp_path: Path, name: str, text: str | bytes, says: str) -> None:
    """The line is the file's own, also where the error is raised below it."""
    with pytest.raises(ScenarioFileError, match=says):
        load_file(written(tmp_path, text))


def test_the_line_is_the_files_own_where_it_imports_a_broken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The syntax error of another file has a line, too, which is not this one's."""
    written(tmp_path, "\n" * 40 + "x = (\n", "broken_beside.py")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ScenarioFileError, match=r"mine\.py:4: SyntaxError: .*broken_beside\.py, line 41"):
        load_file(written(tmp_path, HEAD + "import broken_beside\n"))


def test_a_relative_path_has_its_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is typed on a command line."""
    written(tmp_path, HEAD + "1 / 0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ScenarioFileError, match=r"^mine\.py:4: ZeroDivisionError"):
        load_file(Path("mine.py"))


def test_a_file_that_is_not_python_is_told(tmp_path: Path) -> None:
    """By its ending."""
    with pytest.raises(ScenarioFileError, match=r"mine\.txt: not a Python file"):
        load_file(written(tmp_path, GOOD, "mine.txt"))


def test_every_scenario_at_the_top_of_a_file_is_found_once(tmp_path: Path) -> None:
    """By itself or in a list, in the order of the file; a second name for one does not make two."""
    text = GOOD + "again = one\nrest = [Scenario(name=f'mine/{i}', workload=[completion()]) for i in range(2)]\n"
    path = written(tmp_path, text)
    assert [one.name for one in find([str(path)])] == ["mine/one", "mine/0", "mine/1"]


def test_two_files_of_one_name_are_two(tmp_path: Path) -> None:
    """Each is its own module, which its classes and predicates can be found in."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        written(folder, GOOD.replace("mine/one", f"mine/{folder.name}"))
    assert [load_file(folder / "mine.py")[0].name for folder in folders] == ["mine/a", "mine/b"]
    ours = [module for name, module in sys.modules.items() if name.startswith("ftharness_scenarios_mine_")]
    assert {str(Path(str(module.__file__)).parent) for module in ours} >= {str(folder) for folder in folders}


MISSPELT = [
    ("migration/worker_failur", r"no scenario 'migration/worker_failur'; did you mean migration/worker_failure\?"),
    ("migraton/worker_failure", r"did you mean migration/worker_failure\?"),
    ("zzz", r"no scenario 'zzz'; there are .*migration/drain"),
    ("migratoin/*", r"no scenarios 'migratoin/\*'; did you mean migration/\*\?"),
    ("zzz/*", r"no scenarios 'zzz/\*'; there are .*migration/\*"),
    ("nowhere/mine.py", r"no scenario file nowhere/mine\.py"),
]


@pytest.mark.parametrize("name,says", MISSPELT, ids=[one[0] for one in MISSPELT])
def test_a_name_that_is_not_there_is_answered_with_the_nearest(name: str, says: str) -> None:
    """Or, where none is near, with all that there are."""
    with pytest.raises(LookupError, match=says):
        find(["migration/drain", name])


def test_names_are_found_in_the_order_in_which_they_are_asked_for() -> None:
    """Families and single ones beside each other."""
    names = [one.name for one in find(["migration/drain", "migration/*"])]
    assert names == ["migration/drain", *(name for name in shipped() if name.startswith("migration/"))]


def test_two_scenarios_of_one_name_are_refused(tmp_path: Path) -> None:
    """One of them would not be run, and nobody would know; one that is there twice is one."""
    head = "from ftharness.scenario import Scenario\na = Scenario(name='a/b', workload=[])\nall_of_them = [a]\n"
    file = tmp_path / "mine.py"
    file.write_text(head)
    assert [one.name for one in load_file(file)] == ["a/b"]
    file.write_text(head + "b = Scenario(name='a/b', workload=[], seed=1)\n")
    with pytest.raises(ScenarioFileError, match=r"mine\.py: two scenarios have the name 'a/b'"):
        load_file(file)
