"""A sweep's folder: what is finished there, whose it is, and what is kept."""

import json
import shutil
import threading
from pathlib import Path

import msgspec
import pytest

from ftharness.checkpoint import CheckpointManifest
from ftharness.history import History, RunFinished
from ftharness.report import write_run
from ftharness.scenario import ScenarioRecord
from ftharness.scenario.runner import keep_cell
from ftharness.stored_runs import judge_again, run_of
from ftharness.sweep import FinishedCell, Planned, Sweep, SweepFolder, load
from ftharness.sweep.plan import Plan, plan_of

TEXT = """
[matrix]
scenarios = ["migration/drain"]
seeds = [1, 2, 3]
"""


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    (tmp_path / "sweep.toml").write_text(TEXT)
    return load(tmp_path / "sweep.toml")


def plan(sweep: Sweep) -> Plan:
    return plan_of(sweep.path, sweep.cells, "2026-01-01T00:00:00+00:00")


def changed(sweep: Sweep, before: str, after: str) -> Plan:
    sweep.path.write_text(TEXT.replace(before, after))
    return plan(load(sweep.path))


def finished(cell: Planned) -> FinishedCell:
    return FinishedCell(cell.name, 2.0, _record(cell))


def evidence(folder: SweepFolder, cell: Planned) -> Path:
    """What a cell that was run leaves beside its record; its history."""
    place = folder.root / cell.folder
    keep_cell(cell.cell, place)
    with History(place / "history.jsonl", start_ns=0) as history:
        history.append(RunFinished(source="harness", outcome="complete"), at=1)
    return place / "history.jsonl"


def _record(cell: Planned) -> ScenarioRecord:
    return ScenarioRecord(name=cell.cell.scenario.name, stack="sim", path=cell.folder, verdict="pass")


def test_what_is_finished_is_in_the_manifest(tmp_path: Path, sweep: Sweep) -> None:
    """Each cell a batch of one shard, in any order, and from any process; the whole is complete when it is said to be."""
    folder, out = SweepFolder(tmp_path / "out"), tmp_path / "out"
    folder.begin(plan(sweep))
    for place in (2, 0):
        SweepFolder(out).finish(sweep.cells[place], finished(sweep.cells[place]))
    assert list(folder.finished()) == [0, 2]
    assert [folder.is_finished(place) for place in range(3)] == [True, False, True]
    shard = CheckpointManifest(out / "sweep" / "manifest.json").get_shard_status(0)
    assert shard is not None
    assert [(one["batch_idx"], one["sequence_range"]) for one in shard["checkpoints"]] == [
        (0, "migration/drain sim vllm seed=1"),
        (2, "migration/drain sim vllm seed=3"),
    ]


def test_what_a_kill_left_between_two_files(tmp_path: Path, sweep: Sweep) -> None:
    """A record that is not in the manifest counts; one that is damaged does not, and is kept beside."""
    folder, records = SweepFolder(tmp_path), tmp_path / "sweep" / "shard_0"
    folder.begin(plan(sweep))
    for cell in sweep.cells:
        evidence(folder, cell)
    for cell in sweep.cells[:2]:
        folder.finish(cell, finished(cell))
    (records / "cell_00002.json").write_bytes(msgspec.json.encode(finished(sweep.cells[2])))
    (records / "cell_00000.json").write_text('{"name": "migra')
    assert folder.begin(plan(sweep)).plan.started_at == plan(sweep).started_at
    assert list(folder.finished()) == [1, 2]
    assert not folder.is_finished(0)
    assert (records / "cell_00000.damaged").exists()
    shard = CheckpointManifest(tmp_path / "sweep" / "manifest.json").get_shard_status(0)
    assert shard is not None
    assert [one["batch_idx"] for one in shard["checkpoints"]] == [1, 2]


def test_a_killed_sweeps_finished_cell_that_is_gone_is_unknown(tmp_path: Path, sweep: Sweep) -> None:
    """Judged again: no report had been written yet, but its record says that there was one."""
    folder, (first, second, _) = SweepFolder(tmp_path / "out"), sweep.cells
    folder.begin(plan(sweep))
    for cell in (first, second):
        folder.finish(cell, finished(cell))
    keep_cell(second.cell, folder.root / second.folder)
    gone, unread = judge_again(folder.root).scenarios
    assert (gone.path, gone.verdict) == (first.folder, "unknown")
    assert gone.reason.endswith(f"{folder.root / first.folder} is missing")
    assert (unread.path, unread.verdict) == (second.folder, "unknown")


def test_what_can_be_proved_no_longer_is_run_anew(tmp_path: Path, sweep: Sweep) -> None:
    """A folder that is gone, a history that is empty, a record that is gone: each is said; an unknown one needs no proof."""
    sweep.path.write_text(TEXT.replace("3]", "3, 4, 5]"))
    sweep = load(sweep.path)
    folder, records = SweepFolder(tmp_path / "out"), tmp_path / "out" / "sweep" / "shard_0"
    folder.begin(plan(sweep))
    for cell in sweep.cells:
        evidence(folder, cell)
        folder.finish(cell, finished(cell))
    assert folder.unproved() == {}
    given_up = finished(sweep.cells[4])
    record = msgspec.structs.replace(given_up.record, verdict="unknown")
    folder.finish(sweep.cells[4], msgspec.structs.replace(given_up, record=record))
    for cell in (sweep.cells[0], sweep.cells[4]):
        shutil.rmtree(folder.root / cell.folder)
    evidence(folder, sweep.cells[1]).write_text("")
    (records / "cell_00002.json").unlink()
    assert list(folder.unproved()) == [0, 1]
    mended = folder.begin(plan(sweep)).mended
    assert [words.partition(", and is to be run anew: ")[0] for words in mended] == [
        f"migration/drain sim vllm seed={seed} was finished" for seed in (1, 2, 3)
    ]
    assert f"{folder.root / '1-migration-drain'} is missing" in mended[0]
    assert "2-migration-drain/history.jsonl holds no event" in mended[1]
    assert "its record is missing" in mended[2]
    assert list(folder.finished()) == [3, 4]
    assert [path.name for path in sorted(records.glob("*.damaged"))] == ["cell_00000.damaged", "cell_00001.damaged"]
    assert folder.begin(plan(sweep)).mended == []


BROKEN = [
    (["plan.json"], None, "plan.json is missing: it is made again, from "),
    (["plan.json"], "{", "plan.json is damaged: it is made again, from "),
    (["manifest.json", "manifest.slot0", "manifest.slot1"], "{", "manifest.json is damaged: it is made again"),
    (["manifest.json", "manifest.slot0", "manifest.slot1"], None, "manifest.json is missing: it is made again"),
    (["manifest.json", "manifest.slot0", "manifest.slot1"], '{"shards": {"0": {}}}', "manifest.json is damaged"),
]


@pytest.mark.parametrize("names,text,says", BROKEN, ids=[f"{names[0]} {text}" for names, text, _ in BROKEN])
def test_what_a_sweep_knows_twice_is_made_again(
    tmp_path: Path, sweep: Sweep, names: list[str], text: str | None, says: str
) -> None:
    """That is said, what is finished stays so, and another sweep is refused all the same."""
    folder = SweepFolder(tmp_path / "out")
    folder.begin(plan(sweep))
    evidence(folder, sweep.cells[1])
    folder.finish(sweep.cells[1], finished(sweep.cells[1]))
    _break(folder, names, text)
    with pytest.raises(ValueError, match=r"is of another sweep than .*--force-restart"):
        folder.begin(changed(sweep, "[1, 2, 3]", "[1, 2]"))
    (words,) = folder.begin(plan(sweep)).mended
    assert says in words
    assert list(folder.finished()) == [1]
    assert folder.plan() == plan(sweep)
    shard = CheckpointManifest(folder.own / "manifest.json").get_shard_status(0)
    assert shard is not None
    assert [one["batch_idx"] for one in shard["checkpoints"]] == [1]
    assert folder.begin(plan(sweep)).mended == []


def _break(folder: SweepFolder, names: list[str], text: str | None) -> None:
    for name in names:
        (folder.own / name).unlink() if text is None else (folder.own / name).write_text(text)


@pytest.mark.parametrize("text", [None, "{"], ids=["missing", "damaged"])
def test_where_nothing_tells_whose_it_is(tmp_path: Path, sweep: Sweep, text: str | None) -> None:
    """Neither plan nor manifest, but records: refused, with what to do, which works, and costs only what is a sweep's."""
    folder, cell = SweepFolder(tmp_path / "out"), sweep.cells[0]
    folder.begin(plan(sweep))
    evidence(folder, cell)
    folder.finish(cell, finished(cell))
    (folder.root / "notes").mkdir()
    _break(folder, ["plan.json", "manifest.json", "manifest.slot0", "manifest.slot1"], text)
    with pytest.raises(ValueError, match=r"nobody knows of which sweep it is.*--force-restart"):
        folder.begin(plan(sweep))
    with pytest.raises(ValueError, match=r"plan\.json is .*; name its file, .* ftharness sweep FILE --out "):
        folder.plan()
    folder.forget()
    assert [path.name for path in folder.root.iterdir()] == ["notes"]
    assert folder.begin(plan(sweep)).mended == []
    assert folder.finished() == {}


DIFFERENT = [
    ("seeds = [1, 2, 3]", "seeds = [1, 2, 3, 4]", "'migration/drain sim vllm seed=4' is new"),
    ("seeds = [1, 2, 3]", "seeds = [3]", "'migration/drain sim vllm seed=1', '.* seed=2' are gone"),
    ("seeds = [1, 2, 3]", "seeds = [3, 2, 1]", "the cells are in another order"),
]


@pytest.mark.parametrize("before,after,says", DIFFERENT, ids=["more", "fewer", "order"])
def test_another_sweep_is_refused(tmp_path: Path, sweep: Sweep, before: str, after: str, says: str) -> None:
    """It says what changed and what can be done; nothing in the folder is touched."""
    folder = SweepFolder(tmp_path / "out")
    folder.begin(plan(sweep))
    folder.finish(sweep.cells[0], finished(sweep.cells[0]))
    with pytest.raises(ValueError, match=f"is of another sweep than .*{says}.*--force-restart"):
        folder.begin(changed(sweep, before, after))
    assert list(folder.finished()) == [0]


def test_another_version_and_another_content_are_told(tmp_path: Path, sweep: Sweep) -> None:
    """Two versions of ftharness, or of a scenario, are not judged in one report."""
    folder = SweepFolder(tmp_path)
    folder.begin(msgspec.structs.replace(plan(sweep), ftharness="0.0.1"))
    with pytest.raises(ValueError, match=r"it was begun by ftharness 0\.0\.1, and this is "):
        folder.compare(plan(sweep))
    folder.forget()
    folder.begin(plan(sweep))
    cells = [msgspec.structs.replace(cell, content="other") for cell in sweep.cells[:1]] + sweep.cells[1:]
    with pytest.raises(ValueError, match="'migration/drain sim vllm seed=1' would run something else"):
        folder.compare(plan_of(sweep.path, cells, ""))


def test_a_run_of_several_scenarios_is_removed_by_who_says_so(tmp_path: Path, sweep: Sweep) -> None:
    """As of a sweep whose own folder is gone; what is not the run's stays."""
    folder = SweepFolder(tmp_path / "out")
    for cell in sweep.cells[:2]:
        evidence(folder, cell)
    (folder.root / "2-migration-drain" / "scenario.json").unlink()  # known by the report
    records = [_record(cell) for cell in sweep.cells[:2]]
    write_run(folder.root, run_of(records, 0, ""))
    for name in ("3-mine", "logs"):
        (folder.root / name).mkdir()
    with pytest.raises(ValueError, match=r"there is a run in this folder already: .*--force-restart"):
        folder.begin(plan(sweep))
    folder.forget()
    assert sorted(path.name for path in folder.root.iterdir()) == ["3-mine", "logs"]
    assert folder.begin(plan(sweep)).mended == []


@pytest.mark.parametrize("name", [".", "mine", "test_one/run-1"])
def test_another_run_is_left_alone(tmp_path: Path, sweep: Sweep, name: str) -> None:
    """Also beside a sweep, by who wants to begin anew: of one scenario, in a folder of its own, of a test."""
    folder, mine = SweepFolder(tmp_path / "out"), msgspec.structs.replace(sweep.cells[0], folder=name)
    history = evidence(folder, mine)
    write_run(folder.root, run_of([_record(mine)], 0, ""))
    folder.forget()
    with pytest.raises(ValueError, match="there is a run in this folder already"):
        folder.begin(plan(sweep))
    evidence(folder, sweep.cells[1])
    with pytest.raises(ValueError, match=f"{history.parent}: this run is no sweep's: take another folder, or move it"):
        folder.forget()
    assert history.exists()
    assert (folder.root / "run.json").exists()


def test_what_is_no_run_of_ours_is_left_alone(tmp_path: Path, sweep: Sweep) -> None:
    """A file of that name may be anybody's."""
    (tmp_path / "run.json").write_text("{}")
    folder = SweepFolder(tmp_path)
    folder.forget()
    with pytest.raises(ValueError, match="there is a run in this folder already"):
        folder.begin(plan(sweep))
    assert (tmp_path / "run.json").read_text() == "{}"


def test_anew_nothing_of_the_old_one_counts(tmp_path: Path, sweep: Sweep) -> None:
    """Its cells, records and report go; what is not the sweep's stays."""
    folder, cell = SweepFolder(tmp_path / "out"), sweep.cells[0]
    folder.begin(plan(sweep))
    folder.finish(cell, finished(cell))
    folder.empty(cell).mkdir()
    for name in ("run.json", "notes.txt"):
        (folder.root / name).write_text("{}")
    folder.forget()
    assert [path.name for path in folder.root.iterdir()] == ["notes.txt"]
    folder.begin(changed(sweep, "[1, 2, 3]", "[5]"))
    assert folder.finished() == {}


def test_what_was_half_written_is_kept(tmp_path: Path, sweep: Sweep) -> None:
    """However often, each under a name of its own, where no run is looked for."""
    folder, cell = SweepFolder(tmp_path), sweep.cells[0]
    for attempt in range(3):
        place = folder.empty(cell)
        assert not place.exists()
        place.mkdir()
        (place / "scenario.json").write_text(json.dumps(attempt))
    kept = sorted((tmp_path / "sweep" / "interrupted").iterdir())
    assert [path.name for path in kept] == ["1-migration-drain", "1-migration-drain-2"]
    assert [(path / "scenario.json").read_text() for path in kept] == ["0", "1"]
    assert not list(tmp_path.glob("sweep/scenario.json")) + list(tmp_path.glob("sweep/*/scenario.json"))


def test_whoever_resumes_waits_for_all_workers(tmp_path: Path) -> None:
    """They write side by side; it is told that there are some, and goes on when the last of them is gone."""
    waits, over = threading.Event(), threading.Event()
    resumes = threading.Thread(
        target=lambda: (SweepFolder(tmp_path).wait_for_workers(waits.set), over.set()), daemon=True
    )
    with SweepFolder(tmp_path).at_work():
        with SweepFolder(tmp_path).at_work():
            resumes.start()
            assert waits.wait(10)
        assert not over.wait(0.2)
    assert over.wait(10)
    waits.clear()
    SweepFolder(tmp_path).wait_for_workers(waits.set)
    assert not waits.is_set()
