"""Tables of many runs against the statistics of the numbers written, and sweeps that go on where they were."""

import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from omegaconf import DictConfig, OmegaConf

from gan_lightning.build import train

Configure = Callable[..., DictConfig]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """scripts/report.py, which is no part of the package."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("report", ROOT / "scripts" / "report.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(folder: Path, config: dict[str, Any], **metrics: float) -> None:
    """A finished run's folder."""
    folder.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    named = {name.replace("__", "/"): value for name, value in metrics.items()}
    (folder / "metrics.json").write_text(json.dumps({"step": 10, **named}))


def options(seed: int, name: str | None = "ring", loss: str = "Hinge", lr: float = 0.1) -> dict[str, Any]:
    """A configuration in small; all that depends on the seed or the place is different in each run."""
    return {
        "name": name,
        "seed": seed,
        "resume": f"somewhere/{seed}" if seed % 2 else None,
        "data": {"root": f"data/{seed}", "seed": seed, "stds": [0.5, 1.0]},
        "loss": {"_target_": f"gan_lightning.losses.{loss}"},
        "model": {"lr": lr, "generator": {"widths": [8, 8]}},
    }


def run_script(script: ModuleType, capsys: pytest.CaptureFixture[str], *arguments: object) -> list[list[str]]:
    """The Markdown that it prints, as cells, without the line below the header."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["report.py", *map(str, arguments)])
        script.main()
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("| ") and line.endswith(" |") for line in (lines[0], *lines[2:]))
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    assert set(rows.pop(1)) == {"---"}
    assert lines[1].count("---") == len(rows[0])
    assert {len(row) for row in rows} == {len(rows[0])}
    return rows


KS = {"Hinge": [0.0213, 0.0352, 0.0301, 0.0278], "Minimax": [0.31, 0.52]}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Four seeds of one setting and two of another, in folders as deep as sweeps of sweeps."""
    for loss, values in KS.items():
        for seed, value in enumerate(values):
            write(tmp_path / loss / str(seed), options(seed, loss=loss), val__ks=value, seconds=10.0 + seed)
    return tmp_path


def test_one_row_a_setting_with_mean_and_standard_error(
    script: ModuleType, capsys: pytest.CaptureFixture[str], runs: Path
) -> None:
    rows = run_script(script, capsys, runs)
    assert rows[0] == ["setting", "seeds", "ks", "seconds"]
    assert [row[0] for row in rows[1:]] == ["ring loss._target_=Hinge", "ring loss._target_=Minimax"]
    for row, values in zip(rows[1:], KS.values(), strict=True):
        assert row[1] == str(len(values))
        mean, error = (float(number) for number in row[2].split(" ± "))
        exact = np.std(values, ddof=1) / np.sqrt(len(values))
        assert error == pytest.approx(exact, rel=0.05)  # it is written to two figures
        assert mean == pytest.approx(statistics.fmean(values), abs=0.05 * exact)


@pytest.mark.parametrize("seed", range(20))
def test_two_figures_of_the_error(script: ModuleType, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-1, 3)  # smaller errors are cut at four decimals
    values = (scale * rng.normal(3, 0.4, rng.integers(2, 9))).tolist()
    mean, error = script.cell(values).split(" ± ")
    exact = np.std(values, ddof=1) / np.sqrt(len(values))
    assert len(mean.partition(".")[2]) == len(error.partition(".")[2])
    figures = len(error.replace(".", "").lstrip("0"))
    assert figures == 2 or float(f"{exact:.1e}") != float(f"{exact:.2e}")  # .0996 is .100
    digits = len(error.partition(".")[2])
    assert (float(mean), float(error)) == pytest.approx((np.mean(values), exact), abs=0.5001 * 10.0**-digits)


@pytest.mark.parametrize(
    ("values", "text"), [([0.123456], "0.1235"), ([2.0, 2.0, 2.0], "2 ± 0"), ([1.0, 3.0], "2.0 ± 1.0")]
)
def test_cells_of_few_or_equal_runs(script: ModuleType, values: list[float], text: str) -> None:
    assert script.cell(values) == text


def test_runs_are_one_setting_if_only_seed_place_and_resume_differ(
    script: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for seed in range(3):
        write(tmp_path / str(seed), options(seed), val__ks=0.5, seconds=1.0)
    (row,) = run_script(script, capsys, tmp_path)[1:]
    assert row == ["ring", "3", "0.5 ± 0", "1 ± 0"]


def test_labels_name_what_differs_among_runs_of_a_name(
    script: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for i, lr in enumerate((0.1, 0.2)):
        write(tmp_path / "ring" / str(i), options(0, lr=lr), val__ks=0.5, seconds=1.0)
        write(tmp_path / "none" / str(i), options(0, None, ("Hinge", "Minimax")[i], lr), val__ks=0.5, seconds=1.0)
    write(tmp_path / "grid", options(0, "grid", "Wasserstein", 0.7), val__ks=0.5, seconds=1.0)
    labels = [row[0] for row in run_script(script, capsys, tmp_path)[1:]]
    assert labels == [
        "grid",  # alone of its name
        "loss._target_=Hinge model.lr=0.1",
        "loss._target_=Minimax model.lr=0.2",
        "ring model.lr=0.1",
        "ring model.lr=0.2",
    ]


def test_runs_without_a_name_or_a_difference_are_all(
    script: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write(tmp_path / "a", options(0, None), val__ks=0.5, seconds=1.0)
    assert run_script(script, capsys, tmp_path)[1][0] == "all"


def test_metrics_are_chosen_and_absent_ones_left_empty(
    script: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write(tmp_path / "a", options(0, "a"), val__ks=0.5, val__modes=8.0, seconds=1.0)
    write(tmp_path / "b", options(0, "b"), val__jsd=0.25, seconds=2.0)
    rows = run_script(script, capsys, tmp_path)
    assert rows == [
        ["setting", "seeds", "jsd", "ks", "modes", "seconds"],
        ["a", "1", "", "0.5", "8", "1"],
        ["b", "1", "0.25", "", "", "2"],
    ]
    chosen = run_script(script, capsys, tmp_path, "--metrics", "val/modes", "step")
    assert chosen[0] == ["setting", "seeds", "modes", "step", "seconds"]
    assert chosen[1] == ["a", "1", "8", "10", "1"]


def test_several_folders_make_one_table(script: ModuleType, capsys: pytest.CaptureFixture[str], runs: Path) -> None:
    both = run_script(script, capsys, runs / "Hinge", runs / "Minimax")
    assert both == run_script(script, capsys, runs)


def test_the_csv_is_the_table(script: ModuleType, capsys: pytest.CaptureFixture[str], runs: Path) -> None:
    path = runs / "table.csv"
    rows = run_script(script, capsys, runs, "--csv", path)
    with path.open(newline="") as file:
        assert list(csv.reader(file)) == rows


def test_no_run_is_one_sentence(script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "stopped").mkdir()
    (tmp_path / "stopped" / "config.yaml").write_text("seed: 0\n")
    monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        script.main()
    # a text is printed to stderr and makes the exit code 1
    assert isinstance(ended.value.code, str)
    assert ended.value.code.startswith(f"Error: no finished run below {tmp_path}: ")
    assert ended.value.code.count("\n") == 0


# ------------------------------------------------------------------------------------------- a sweep that goes on

TINY = ("data.batch_size=16", "data.rounds_per_epoch=10", "trainer.accelerator=cpu", "callbacks.samples.points=100")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_a_stopped_sweep_goes_on(configure: Configure, tmp_path: Path) -> None:
    """The finished run is left alone, the stopped one goes on from its checkpoint, the third starts."""
    overrides = [*TINY, "trainer.max_steps=30"]
    finished, stopped, new = (tmp_path / "sweep" / ",".join(sorted([*overrides, f"seed={i}"])) for i in range(3))
    train(configure(*TINY, "trainer.max_steps=30", "seed=0"), finished)
    train(configure(*TINY, "trainer.max_steps=20", "seed=1"), stopped)
    (stopped / "metrics.json").unlink()
    train(configure(*TINY, "trainer.max_steps=30", "seed=1"), tmp_path / "whole")
    shutil.copy(tmp_path / "whole" / "config.yaml", stopped)  # as if 30 had been asked for and a kill had come at 20
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}

    sweep = ["-m", "seed=0,1,2", "trainer.max_steps=30", *TINY, "hydra.sweep.dir=sweep"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HYDRA", "PYTHONWARNINGS"))}
    result = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *sweep],
        cwd=tmp_path,
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before
    assert f"{finished.name} is finished already" in result.stdout
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()) == sorted(
        folder.name for folder in (finished, stopped, new)
    )
    for run in (stopped, new):
        summary = json.loads((run / "metrics.json").read_text())
        assert (summary["step"], summary["images_seen"]) == (30, 30 * 16)
    ended, whole = weights(stopped), weights(tmp_path / "whole")
    assert all(torch.equal(ended[name], whole[name]) for name in whole)
    assert not all(torch.equal(weights(new)[name], whole[name]) for name in whole)


def test_errors_are_cut_at_four_decimals(script: ModuleType) -> None:
    assert script.cell([0.12341, 0.12349]) == "0.1235 ± 0"
    assert script.cell([0.1232, 0.1236]) == "0.1234 ± 0.0002"
