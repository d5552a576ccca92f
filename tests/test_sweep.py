"""What a sweep says of its jobs and how it ends."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from gan_lightning import sweep

# what is typed, the options of a job, those that it is told by, and how many jobs there are
CASES = [
    ("loss=hinge,minimax seed=0,1,2 model.lr=0.1", "loss=hinge seed=2 model.lr=0.1", "loss=hinge seed=2", "6"),
    ("seed=range(4)", "seed=2", "seed=2", "4"),
    ("model.betas=[0.1,0.2],[0.3,0.4] seed=1", "model.betas=[0.3,0.4] seed=1", "model.betas=[0.3,0.4]", "2"),
    ("data.root=glob(*) seed=0,1", "data.root=a seed=0", "data.root=a seed=0", "?"),
    ("model.lr=interval(0,1) data=ring", "model.lr=0.3 data=ring", "model.lr=0.3", "?"),
    ("seed=0", "seed=0", "seed=0", "1"),
]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "BEGUN", set())
    monkeypatch.setattr(sweep, "STATUSES", [])
    for name in (sweep.PLACE, sweep.JOBS, sweep.SHARED):
        monkeypatch.setenv(name, "")


def begin(place: Path, typed: list[str], **sweeper: Any) -> None:
    hydra = {"sweep": {"dir": str(place)}, "overrides": {"task": typed}, "sweeper": sweeper}
    sweep.Outcome().on_multirun_start(OmegaConf.create({"hydra": hydra}))


@pytest.mark.parametrize(("typed", "task", "told", "jobs"), CASES, ids=[row[0] for row in CASES])
def test_a_job_says_which_of_how_many_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, task: str, told: str, jobs: str
) -> None:
    begin(tmp_path, typed.split())
    job = SimpleNamespace(job=SimpleNamespace(num=1), overrides=SimpleNamespace(task=task.split()))
    monkeypatch.setattr(HydraConfig, "get", lambda: job)
    assert sweep.announcement() == f"2 of {jobs}: {told}"


def test_what_is_swept_is_known_in_every_process(tmp_path: Path) -> None:
    """By the environment: the job of a launcher and another process of a run have only their own options."""
    begin(tmp_path, ["optimizer@generator_optimizer=sgd,adam", "loss=hinge", "+model.x=choice(1,2)", "seed=range(3)"])
    task = ["optimizer@generator_optimizer=adam", "loss=hinge", "+model.x=1", "seed=2"]
    assert sweep.swept(task) == ["optimizer", "model.x", "seed"]


def test_nothing_is_swept_without_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(sweep.SHARED)
    assert sweep.swept(["seed=2"]) == []


def test_a_search_has_its_trials(tmp_path: Path) -> None:
    begin(tmp_path, ["model.lr=interval(0,1)"], n_trials=7)
    assert sweep.os.environ[sweep.JOBS] == "7"


def test_the_worst_status_is_the_sweeps_and_is_forgotten(tmp_path: Path) -> None:
    begin(tmp_path, ["seed=0,1"])
    assert sweep.worst_status() == 0
    for status in (3, 4, 3):
        sweep.record(status)
    assert sweep.worst_status() == 4
    assert sweep.worst_status() == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("jobs", "own", "worst"), [((3,), 130, 130), ((3,), 1, 1), ((4,), 1, 4), ((130,), 0, 130), ((3,), 2, 2), ((), 0, 0)]
)
def test_the_end_of_the_sweeps_own_process_counts(tmp_path: Path, jobs: tuple[int, ...], own: int, worst: int) -> None:
    """As by a Ctrl-C between two jobs."""
    begin(tmp_path, ["seed=0,1"])
    for status in jobs:
        sweep.record(status)
    assert sweep.worst_status(own) == worst


def test_jobs_in_processes_of_their_own_say_it_by_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(tmp_path, ["seed=0,1"])
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(sweep, "BEGUN", set())
        sweep.record(3)
        assert sweep.worst_status(1) == 1
    assert [path.name for path in tmp_path.iterdir()] == [".statuses"]
    assert sweep.worst_status() == 3
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_sweep_has_left_is_not_the_next_ones(tmp_path: Path) -> None:
    (tmp_path / ".statuses").write_text("4\n")
    begin(tmp_path, ["seed=0,1"])
    assert sweep.worst_status() == 0
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_no_status_changes_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a job in this process; of another's it is lost, without a traceback."""
    begin(tmp_path / "gone", ["seed=0,1"])
    sweep.record(4)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(sweep, "BEGUN", set())
        sweep.record(130)
    assert sweep.worst_status() == 4
