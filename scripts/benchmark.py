"""Images a second of MNIST training: this package as a user runs it, in turn with a plain hand-written loop.

    python scripts/benchmark.py --data FOLDER_WITH_MNIST [--rounds 5] [--steps 200]

The loop is what tutorials write: a DataLoader with ToTensor, the same networks and batch size, Adam as it comes, one
``item()`` of each loss a step. Prints the median of each and of their ratio over the rounds.
"""

import argparse
import platform
import statistics
import tempfile
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from lightning import Callback, Trainer
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from gan_lightning import build
from gan_lightning.networks import mlp

CONF = Path(__file__).resolve().parent.parent / "conf"
WARMUP, BATCH, LATENTS = 20, 256, 64


class Clock(Callback):
    """The generator updates done and the time, at each batch's end; a batch may carry several."""

    def __init__(self) -> None:
        self.ticks: list[tuple[int, float]] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.ticks.append((trainer.global_step, time.perf_counter()))


def ours(data: Path, steps: int) -> float:
    """Images a second of ``python train.py model=mlp data=mnist``, after the warm-up."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = ["model=mlp", "data=mnist", f"data.root={data}", f"trainer.max_steps={WARMUP + steps}"]
        build.train(compose("config", overrides=overrides), Path(folder), extra_callbacks=[clock])
    (first, start), (last, end) = next(tick for tick in clock.ticks if tick[0] >= WARMUP), clock.ticks[-1]
    return BATCH * (last - first) / (end - start)


def tutorial(data: Path, steps: int) -> float:
    """Images a second of a plain loop, after the warm-up."""
    g = mlp.Generator(LATENTS, (1, 28, 28), [128, 256, 512, 1024])
    d = mlp.Discriminator((1, 28, 28), [512, 256, 128])
    optimizer_g, optimizer_d = (torch.optim.Adam(network.parameters(), lr=2e-4) for network in (g, d))
    criterion = nn.BCEWithLogitsLoss()
    loader = cycle(DataLoader(MNIST(str(data), transform=ToTensor()), batch_size=BATCH, shuffle=True))
    start = total_d = total_g = 0.0
    for step in range(WARMUP + steps):
        if step == WARMUP:
            start = time.perf_counter()
        real, _ = next(loader)
        optimizer_d.zero_grad()
        fake_logits, real_logits = d(g(torch.randn(BATCH, LATENTS)).detach()), d(real)
        loss_d = criterion(fake_logits, torch.zeros(BATCH)) + criterion(real_logits, torch.ones(BATCH))
        loss_d.backward()
        optimizer_d.step()
        optimizer_g.zero_grad()
        loss_g = criterion(d(g(torch.randn(BATCH, LATENTS))), torch.ones(BATCH))
        loss_g.backward()
        optimizer_g.step()
        total_d, total_g = total_d + loss_d.item(), total_g + loss_g.item()
    return BATCH * steps / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds MNIST/raw")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    rounds = []
    for _ in range(options.rounds):
        rounds.append((ours(options.data, options.steps), tutorial(options.data, options.steps)))
        print(f"ours {rounds[-1][0]:.0f}, tutorial loop {rounds[-1][1]:.0f} images/s", flush=True)
    ratios = [a / b for a, b in rounds]
    medians = [statistics.median(speeds) for speeds in zip(*rounds, strict=True)]
    print(f"median: ours {medians[0]:.0f}, tutorial loop {medians[1]:.0f} images/s")
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
