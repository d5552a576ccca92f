"""Two processes on halves of each batch are one process on the whole."""

import csv
from pathlib import Path
from typing import Any

import programs
import pytest
import torch
from torch.testing import assert_close

WORKER = Path(__file__).with_name("worker.py")
COMMON = (
    "data=ring",
    "data.rounds_per_epoch=20",
    "trainer.max_steps=30",
    "trainer.accelerator=cpu",
    "optimizer@generator_optimizer=sgd",  # Adam divides by gradients that are nothing but rounding
    "optimizer@discriminator_optimizer=sgd",
    "generator_optimizer.lr=0.1",
    "discriminator_optimizer.lr=0.1",
    "model.critic_steps=2",
    "callbacks.samples.n=100",
    "trainer.log_every_n_steps=10",
)


def train(folder: Path, *overrides: str) -> str:
    """What the run printed."""
    folder.mkdir()
    return work(folder, *COMMON, *overrides)


def work(folder: Path, *overrides: str) -> str:
    ended = programs.run(WORKER, str(folder), *overrides, cwd=folder.parent)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def saved(path: Path) -> Any:
    return torch.load(path, weights_only=True)


ALIKE = [
    (
        "trainer.accumulate_grad_batches=2",
        *("augment=ada", "augment._target_=__main__.Mirror", "augment.speed=20000", "augment.target=-0.9"),
    ),
    ("regularizer=r1", "model.packing=2"),
    ("regularizer=r1", "model.conditional=true"),
]


@pytest.mark.parametrize("common", ALIKE, ids=["-".join(options) for options in ALIKE])
def test_two_processes_are_one(tmp_path: Path, common: tuple[str, ...]) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert "data.batch_size" not in train(one, *common, "data.batch_size=64")
    printed = train(two, *common, "data.batch_size=32", "trainer.devices=2", "trainer=ddp")
    assert printed.count("data.batch_size=32 is per device: an update uses 64 samples on 2 devices\n") == 1
    single, first, second = (saved(path) for path in (one / "rank0.pt", two / "rank0.pt", two / "rank1.pt"))
    assert_close(first, second, rtol=0, atol=0)
    assert_close(first, single, rtol=1e-4, atol=1e-6)
    moved = (single["game.generator.layers.0.weight"] - single["average.network.generator.layers.0.weight"]).abs().max()
    assert moved > 1e-3  # the comparison is of trained weights
    if "augment=ada" in common:
        assert 0.2 < single["game.augment.p"] < 1
    # each update exchanges its own network's gradients, once
    sizes = {
        name: sum(w.numel() for k, w in single.items() if k.startswith(f"game.{name}")) for name in ("gen", "disc")
    }
    traffic = saved(two / "traffic0.pt")
    assert {name: traffic.count(size) for name, size in sizes.items()} == {"gen": 30, "disc": 60}
    assert sum(n for n in traffic if n not in sizes.values()) < 1000  # losses for the log, metrics


def test_processes_share_batch_norm_statistics(tmp_path: Path) -> None:
    options = ("model.generator.batch_norm=true", "trainer.max_steps=10", "trainer.devices=2", "trainer.strategy=ddp")
    train(tmp_path / "run", *options, "callbacks=race", "callbacks.clock.at_seconds=[0.001,1000]")
    first, second = (saved(tmp_path / "run" / f"rank{rank}.pt") for rank in (0, 1))
    assert_close(first, second, rtol=0, atol=0)
    assert first["game.generator.layers.1.running_mean"].abs().max() > 1e-3
    assert first["average.network.generator.layers.1.running_mean"].abs().max() > 1e-3
    kept = saved(tmp_path / "run" / "checkpoints" / "at_0.001s.ckpt")  # when the processes' mean had passed it
    assert 0.001 <= kept["callbacks"]["Clock"]["seconds"] < 1000


@pytest.mark.parametrize("first", [1, 2])
def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path, first: int) -> None:
    """With the data, latents and noise that one process would have seen: rounding alone differs."""
    devices = {1: ["data.batch_size=64", "trainer.devices=1"], 2: ["data.batch_size=32", "trainer.devices=2"]}
    common = ("regularizer=[r1,gradient_penalty]", "regularizer.gradient_penalty.weight=0.1", "trainer.strategy=ddp")
    common += ("model.spectral_norm=true",)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(whole, *common, *devices[1])
    train(parts, *common, *devices[first], "trainer.max_steps=13")
    work(parts, *devices[3 - first], "trainer.max_steps=30")
    one, other = (saved(folder / "rank0.pt") for folder in (whole, parts))
    assert_close(other, one, rtol=1e-4, atol=1e-6)


def test_the_log_and_the_metrics_are_of_the_joined_batch(tmp_path: Path) -> None:
    common = ("data=gaussian", "data.validation_samples=1000", "trainer.max_steps=20", "logger=csv")
    train(tmp_path / "one", *common, "data.batch_size=64")
    train(tmp_path / "two", *common, "data.batch_size=32", "trainer.devices=2", "trainer=ddp")
    one, two = (logged(tmp_path / name) for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert sum("discriminator/accuracy" in name for _, name in one) == 2
    assert {"val/ks", "discriminator/real"} <= {name for _, name in one}
    for place, value in one.items():
        assert two[place] == pytest.approx(value, rel=1e-3, abs=1e-5), place


def logged(folder: Path) -> dict[tuple[str, str], float]:
    """Every number of metrics.csv by step and name, but for the speed."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        (row["step"], name): float(value)
        for row in rows
        for name, value in row.items()
        if value and name not in ("step", "images_per_second")
    }
