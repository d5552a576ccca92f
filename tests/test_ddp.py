"""Two processes on halves of each batch are one process on the whole."""

import subprocess
import sys
from pathlib import Path

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
    "callbacks.samples.points=100",
    "trainer.log_every_n_steps=10",
)


def train(folder: Path, *overrides: str) -> None:
    folder.mkdir()
    ended = subprocess.run(
        [sys.executable, str(WORKER), str(folder), "0", *COMMON, *overrides], capture_output=True, check=False
    )
    assert ended.returncode == 0, ended.stderr.decode()


@pytest.mark.parametrize("regularizer", ["none", "r1"])
def test_two_processes_are_one(tmp_path: Path, regularizer: str) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    train(one, f"regularizer={regularizer}", "data.batch_size=64")
    train(two, f"regularizer={regularizer}", "data.batch_size=32", "trainer.devices=2", "trainer=ddp")
    single, first, second = (
        torch.load(path, weights_only=True) for path in (one / "rank0.pt", two / "rank0.pt", two / "rank1.pt")
    )
    assert_close(first, second, rtol=0, atol=0)
    assert_close(first, single, rtol=1e-4, atol=1e-6)
    moved = (single["generator.layers.0.weight"] - single["average.network.layers.0.weight"]).abs().max()
    assert moved > 1e-3  # the comparison is of trained weights
