"""What the folders of runs are called."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import gan_lightning.config  # noqa: F401  conf/ reads by its resolvers
from gan_lightning import sweep
from gan_lightning.names import job_name

NOW = r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d"


@pytest.fixture(autouse=True)
def _no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "BEGUN", set())
    for name in (sweep.PLACE, sweep.JOBS, sweep.SHARED):
        monkeypatch.setenv(name, "")


def composed(*typed: str) -> Any:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", overrides=list(typed), return_hydra_config=True).hydra


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("", "points_gaussian"),
        ("data=mnist seed=3 trainer.max_steps=7 logger=csv callbacks=none trainer=ddp", "mlp_mnist"),
        ("data=ring loss=relativistic regularizer=[r1,r2]", "points_ring_relativistic_r1-r2"),
        ("optimizer@generator_optimizer=sgd augment=none", "points_gaussian_generator_optimizer-sgd_augment-none"),
        ("experiment=ring_relativistic model.lr=1e-3", "ring_relativistic"),
        ("experiment=ring_relativistic data=grid loss=hinge", "ring_relativistic_grid_hinge"),
        ("name='my own' data=ring", "my-own_ring"),
        ("game=bigan model=bigan data=mnist", "bigan_mnist"),
    ],
)
def test_a_run_is_called_by_what_is_run(typed: str, name: str) -> None:
    assert re.fullmatch(f"outputs/{name}/{NOW}", composed(*re.findall(r"(?:'[^']*'|\S)+", typed)).run.dir)


@pytest.mark.parametrize(
    ("typed", "job", "name"),
    [
        ("seed=0,1 data=mnist", "seed=0 data=mnist", "mlp_mnist_seed-0"),
        (
            "loss=hinge,minimax seed=0,1 model.lr=0.1",
            "loss=hinge seed=1 model.lr=0.1",
            "points_gaussian_loss-hinge_seed-1",
        ),
        ("model=mlp,dcgan data=mnist loss=hinge", "model=dcgan data=mnist loss=hinge", "mnist_hinge_model-dcgan"),
        ("data=ring,mnist", "data=mnist", "mlp_data-mnist"),
        ("experiment=ring_relativistic seed=0,1", "experiment=ring_relativistic seed=1", "ring_relativistic_seed-1"),
        ("experiment=pacgan_ring,pacgan_grid", "experiment=pacgan_grid", "experiment-pacgan_grid"),
        ("seed=range(2) ~callbacks.samples", "seed=1 ~callbacks.samples=null", "points_gaussian_seed-1"),
        ("seed=0", "seed=0", "points_gaussian_seed-0"),
        ("", "", "points_gaussian"),
        # a search's, by hydra.sweeper.params
        ("data=ring", "model.lr=0.1 data=ring", "points_ring_model.lr-0.1"),
    ],
)
def test_a_job_is_called_by_what_its_sweep_shares_and_what_differs(
    tmp_path: Path, typed: str, job: str, name: str
) -> None:
    hydra = {"sweep": {"dir": str(tmp_path)}, "overrides": {"task": typed.split()}, "sweeper": {}}
    sweep.Outcome().on_multirun_start(OmegaConf.create({"hydra": hydra}))
    assert composed(*job.split()).sweep.subdir == name


def differing(*overrides: str, left_out: Sequence[str] = ("data.root",)) -> str:
    """The end of a job's name, which is what differs."""
    hydra = {
        "runtime": {"choices": {"model": "points", "data": "ring"}},
        "overrides": {"task": list(overrides)},
        "job": {"config": {"override_dirname": {"exclude_keys": list(left_out)}}},
    }
    return job_name(OmegaConf.create({"hydra": hydra})).removeprefix("points_ring_")


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["seed=0", "loss=hinge"], "loss-hinge_seed-0"),
        (["loss=non_saturating", "model.lr=1e-3"], "loss-non_saturating_model.lr-1e-3"),
        (["optimizer@generator_optimizer=sgd"], "optimizer@generator_optimizer-sgd"),
        (["+lab=mine", "~callbacks.samples"], "+lab-mine_without-callbacks.samples"),
        (["data.root=/x/y", "seed=0"], "seed-0"),
        (["regularizer=[r1,r2]", "seed=1"], r"regularizer-r1-r2_seed-1_\w{12}"),
        (["model.x='a b (1)'"], r"model.x-a-b-1_\w{12}"),
        (["model.lr=${nowhere}"], r"model.lr-nowhere_\w{12}"),
        (["model.x=图像"], r"model.x_\w{12}"),
        (["x=" + "a" * 166], "x-" + "a" * 166),
        (["x=" + "a" * 167], "x-" + "a" * 166 + r"_\w{12}"),
    ],
)
def test_folders_have_names_that_shells_and_hydra_take(overrides: list[str], name: str) -> None:
    found = differing(*overrides)
    assert re.fullmatch(re.escape(name).replace(r"\\w\{12\}", r"\w{12}"), found)
    assert re.fullmatch(r"[\w.+@][\w.+@-]*", found, re.ASCII)
    assert len(found) <= 200


def test_different_jobs_have_different_folders() -> None:
    values = ("a", "b", "a_seed-0", "a seed 0", "a,seed=0", "'a'", "[a]", "{a:1}", "a/b", "a_b", "A", "", "-1", "1")
    values += ("图", "像", "\\")
    names = {differing(f"x={value}", f"seed={seed}") for value in values for seed in ("0", "0_seed-0", "-0")}
    assert len(names) == len(values) * 3
    assert differing("a=1", "b=2") == differing("b=2", "a=1")


def test_a_root_is_in_the_name_where_a_sweep_goes_over_roots() -> None:
    assert len({differing(f"data.root='{root}'", left_out=()) for root in ("/a/x", "/b/x", "/a x")}) == 3
