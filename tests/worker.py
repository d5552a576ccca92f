"""Trains in a process of its own, which others run beside: python worker.py FOLDER OVERRIDE..."""

import sys
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from lightning import Callback

from gan_lightning import resumption, training
from gan_lightning.augment import ADA
from gan_lightning.streams import joint


class Mirror(ADA):
    """Points, which ADA's own transforms are not for, at the other side of the origin with probability p."""

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return points
        return torch.where(joint(uniform, len(points), points.device) < self.p, -points, points)


def uniform(n: int, generator: torch.Generator | None) -> torch.Tensor:
    return torch.rand(n, 1, generator=generator)


class SaveWeights(Callback):
    """This rank's weights at the end, as rankN.pt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Any, module: Any) -> None:
        torch.save(module.state_dict(), self.folder / f"rank{trainer.global_rank}.pt")


class Traffic(Callback):
    """How many numbers this rank exchanged, exchange by exchange, as trafficN.pt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.numbers: list[int] = []

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.exchange = torch.distributed.all_reduce
        torch.distributed.all_reduce = self.counted

    def counted(self, numbers: torch.Tensor, *args: Any, **options: Any) -> Any:
        self.numbers.append(numbers.numel())
        return self.exchange(numbers, *args, **options)

    def on_train_end(self, trainer: Any, module: Any) -> None:
        torch.distributed.all_reduce = self.exchange
        torch.save(self.numbers, self.folder / f"traffic{trainer.global_rank}.pt")


def main(folder: Path, overrides: list[str]) -> None:
    torch.set_num_threads(1)
    # further processes of a run start when the first has written its configuration: a resume names no data
    if (folder / "config.yaml").exists() and not any(override.startswith("data=") for override in overrides):
        configuration = resumption.resume(str(folder), overrides)
    else:
        with initialize_config_dir(str(Path(__file__).parent.parent / "conf"), version_base="1.3"):
            configuration = compose("config", overrides=overrides)
    training.train(configuration, folder, extra_callbacks=[SaveWeights(folder), Traffic(folder)])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
