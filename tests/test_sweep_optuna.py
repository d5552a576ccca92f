"""A sweep that optimizes: what a run returns, and Optuna over six tiny trials."""

import json
import math
import re
import subprocess
from pathlib import Path

import programs
import pytest
from conftest import ROOT
from omegaconf import OmegaConf

from gan_lightning.config import explain
from gan_lightning.errors import Diverged, UsageError
from gan_lightning.objective import objective, worst

MINIMIZING, MAXIMIZING = {"direction": "minimize"}, {"direction": "maximize"}
TINY = [
    "trainer.accelerator=cpu",
    "trainer.max_steps=40",
    "trainer.log_every_n_steps=10",
    "data=gaussian",
    "data.batch_size=16",
    "data.rounds_per_epoch=40",
    "data.rounds_per_batch=10",
    "data.validation_samples=256",
    "model.generator.widths=[8]",
    "model.discriminator.widths=[8]",
    "callbacks=none",
    "logger=none",
]


def sweep(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return programs.run(ROOT / "train.py", "-m", *TINY, "hydra.sweep.dir=sweep", *overrides, cwd=folder)


def test_optuna_finds_the_best_of_six_and_diverged_ones_are_the_worst(tmp_path: Path) -> None:
    """Steps of SGD on G between 1e-3 and 1e30: the largest end in infinity."""
    optuna = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=6", "hydra.sweeper.sampler.seed=2")
    result = sweep(
        tmp_path,
        *optuna,
        "optimizer@generator_optimizer=sgd",
        "generator_optimizer.lr=tag(log,interval(1e-3,1e30))",
    )
    assert result.returncode == Diverged.status, result.stderr
    runs = [path.parent for path in sorted((tmp_path / "sweep").glob("*/config.yaml"))]
    rates = {run: OmegaConf.load(run / "config.yaml").generator_optimizer.lr for run in runs}
    assert len(set(rates.values())) == 6
    scores = {}
    for run in runs:
        if (run / "metrics.json").exists():
            scores[run] = json.loads((run / "metrics.json").read_text())["val/ks"]
    assert 0 < len(scores) < 6
    assert len(re.findall(r"^Error: .* at step \d+: training stopped", result.stderr, re.MULTILINE)) == 6 - len(scores)
    found = OmegaConf.load(tmp_path / "sweep" / "optimization_results.yaml")
    best = min(scores, key=scores.__getitem__)
    assert found.best_value == scores[best]
    assert found.best_params == {"generator_optimizer.lr": rates[best]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a run leaves of numbers."""
    metrics = {"step": 20, "seconds": 1.5, "monitor": "val/ks", "val/ks": 0.25, "val/jsd": math.nan}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    return tmp_path


def test_a_run_returns_its_monitor_or_the_metric_that_was_asked_for(folder: Path) -> None:
    for sweeper in ({}, MINIMIZING):
        assert objective(folder, None, sweeper) == 0.25
        assert objective(folder, "seconds", sweeper) == 1.5
        assert math.isnan(objective(folder, "val/jsd", sweeper) or 0.0)


def test_a_metric_that_is_not_there_is_refused(folder: Path) -> None:
    for name in ("val/fid", "monitor"):
        with pytest.raises(
            UsageError, match=rf"^There is no {name} to optimize .* one of step, seconds, val/ks, val/jsd"
        ):
            objective(folder, name, {})


@pytest.mark.parametrize(("monitor", "missing"), [({}, "metric"), ({"monitor": "val/ks"}, "val/ks")])
def test_only_a_sweeper_that_optimizes_needs_a_metric(folder: Path, monitor: dict[str, str], missing: str) -> None:
    """The second is a run whose validation is disabled by limit_val_batches=0."""
    (folder / "metrics.json").write_text(json.dumps({"step": 20} | monitor))
    assert objective(folder, None, {"max_batch_size": None}) is None
    with pytest.raises(UsageError, match=rf"^There is no {missing} to optimize .* give objective=NAME, one of step\.$"):
        objective(folder, None, MINIMIZING)


def test_the_worst_is_what_the_sweeper_flees() -> None:
    assert worst(MINIMIZING) == worst({}) == math.inf
    assert worst(MAXIMIZING) == -math.inf


def test_a_sweeper_that_is_not_installed_is_told_with_the_command() -> None:
    error = ValueError("Could not find 'hydra/sweeper/optuna'\n\nAvailable options in 'hydra/sweeper':\n\tbasic\n")
    assert explain(error) == ("hydra/sweeper=optuna needs a package that is not installed: pip install -e '.[optuna]'.")
