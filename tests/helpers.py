"""Small runs of the real GAN on data that the test holds in its hand."""

import sys
from collections.abc import Callable
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning
import torch
from conftest import ROOT
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from gan_lightning import priors, training
from gan_lightning.batch import Rounds
from gan_lightning.data.loader import RealData
from gan_lightning.game import Game
from gan_lightning.gan import GAN


class GivenData(RealData):
    """The same data in every epoch, one tensor (rounds, critic_steps * accumulate * world_size * N, *sample_shape)."""

    def __init__(
        self, rounds: Tensor, batch_size: int, rounds_per_batch: int = 1, labels: Tensor | None = None
    ) -> None:
        super().__init__(batch_size, rounds_per_batch=rounds_per_batch)
        self.rounds = rounds
        self.labels = labels  # (rounds, samples)
        self.sample_shape = tuple(rounds.shape[2:])

    @property
    def rounds_per_epoch(self) -> int:
        return len(self.rounds)

    def fetcher(self) -> Callable[[int, int], Rounds]:
        shape = self.round_shape

        def fetch(start: int, stop: int) -> Rounds:
            index = torch.arange(start, stop) % len(self.rounds)
            labels = None if self.labels is None else shape.shard(self.labels[index].flatten(0, 1))
            return Rounds(shape.shard(self.rounds[index].flatten(0, 1)), labels)

        return fetch


GAME = ("generator", "discriminator", "prior", "loss", "regularizers", "generator_regularizers")


def small_gan(game: type[Game] = Game, **options: Any) -> GAN:
    """A float64 GAN over the plane whose weights follow from torch's seed; SGD at 0.1 unless told otherwise."""
    defaults: dict[str, Any] = {
        "generator": nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)),
        "discriminator": nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0)),
        "prior": priors.Normal(3),
        "generator_optimizer": partial(torch.optim.SGD, lr=0.1),
        "discriminator_optimizer": partial(torch.optim.SGD, lr=0.1),
    }
    given = defaults | options
    for name in ("regularizers", "generator_regularizers"):
        if isinstance(given.get(name), list):
            given[name] = {type(regularizer).__name__.lower(): regularizer for regularizer in given[name]}
    played = game(**{name: given.pop(name) for name in GAME if name in given})
    return GAN(played, **given).double()


def trained(folder: Path, *overrides: str) -> Path:
    """The folder of a short real run with these overrides, as the command line makes it."""
    small = ["trainer.accelerator=cpu", "trainer.devices=1", "logger=none", "trainer.limit_val_batches=0"]
    with initialize_config_dir(str(Path(__file__).resolve().parent.parent / "conf"), version_base="1.3"):
        config = compose("config", overrides=[*small, "trainer.max_steps=12", "data.batch_size=8", *overrides])
    training.train(config, folder)
    return folder


def fit(gan: GAN, data: RealData, steps: int, **options: Any) -> lightning.Trainer:
    """Train quietly on the CPU for a number of generator updates."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 10**9,
    }
    trainer = lightning.Trainer(max_steps=steps, **defaults | options)
    trainer.fit(gan, datamodule=data)
    return trainer


def load_script(name: str) -> ModuleType:
    """scripts/NAME.py, which is no part of the package."""
    spec = spec_from_file_location(f"{name}_script", ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up their annotations
    spec.loader.exec_module(module)
    return module
