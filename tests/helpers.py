"""Small runs of the real GAN on data that the test holds in its hand, and a Trainer's counts without a Trainer."""

import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from itertools import islice
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import lightning
import torch
from composing import composed
from conftest import ROOT
from torch import Tensor, nn
from torch.utils.data import Dataset

from gan_lightning import priors, training
from gan_lightning.batch import Rounds
from gan_lightning.data.loader import RealData, RoundLoader
from gan_lightning.game import Game
from gan_lightning.gan import GAN

# 40 updates of points, two epochs of five batches
TOY = (
    "trainer.accelerator=cpu",
    "trainer.max_steps=40",
    "data.rounds_per_epoch=20",
    "data.rounds_per_batch=4",
    "data.batch_size=8",
    "data.validation_samples=64",
    "model.generator.widths=[8]",
    "model.discriminator.widths=[8]",
    "callbacks.samples.n=20",
)


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


class Rows(Dataset[Tensor]):
    """Rows of three columns."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Tensor:
        return torch.arange(3.0) + index


GAME = ("generator", "discriminator", "encoder", "prior", "loss", "regularizers", "generator_regularizers")
GAME += ("packing", "augment")


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
    training.train(composed(*small, "trainer.max_steps=12", "data.batch_size=8", *overrides), folder)
    return folder


def counts(
    ranks: int = 1,
    rank: int = 0,
    max_steps: int = -1,
    limit_train_batches: int | None = None,
    overfit_batches: int = 0,
    **gan: int,
) -> Any:
    """What data and their loader ask of a Trainer, before its first batch; ``served`` goes on counting."""
    return SimpleNamespace(
        lightning_module=SimpleNamespace(**gan),
        world_size=ranks,
        global_rank=rank,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        max_steps=max_steps,
        limit_train_batches=limit_train_batches or overfit_batches or None,
        overfit_batches=overfit_batches,
        global_step=0,
        current_epoch=0,
        fit_loop=SimpleNamespace(batch_idx=-1),  # of the last batch in this epoch
    )


def counted(trainer: Any) -> tuple[int, int, int]:
    """The counts alone: the rounds, the epochs and the batches of this epoch that are done."""
    return trainer.global_step, trainer.current_epoch, trainer.fit_loop.batch_idx + 1


def resumed(trainer: Any, **changes: Any) -> Any:
    """The counts as a checkpoint brings them to another Trainer."""
    return SimpleNamespace(**vars(trainer) | {"fit_loop": SimpleNamespace(**vars(trainer.fit_loop))} | changes)


def served(loader: RoundLoader, batches: int) -> list[Rounds]:
    """The next batches, over as many epochs as that takes, up to ``max_steps``; counted as Lightning does."""
    trainer, done = loader.trainer, []
    limit = trainer.limit_train_batches
    trainer.num_training_batches = len(loader) if limit is None else min(limit, len(loader))
    iterator = iter(loader)
    while len(done) < batches and trainer.global_step != trainer.max_steps:
        for rounds in islice(iterator, 1):  # none where the epoch has ended already
            done.append(rounds)
            trainer.global_step += len(rounds.x)
            trainer.fit_loop.batch_idx += 1
        if trainer.fit_loop.batch_idx + 1 >= trainer.num_training_batches:
            trainer.current_epoch += 1
            trainer.fit_loop.batch_idx = -1
            iterator = iter(loader)
    return done


def placed(loader: RoundLoader, position: int) -> RoundLoader:
    """The loader with its Trainer's counts as a run to that round leaves them."""
    trainer = loader.trainer
    epochs, within = divmod(position, loader.rounds_per_epoch)
    ended, batches = divmod(-(-within // loader.rounds_per_batch), len(loader))  # one that was cut is counted
    trainer.global_step, trainer.current_epoch = position, epochs + ended
    trainer.fit_loop.batch_idx = batches - 1
    return loader


def fit(gan: GAN, data: RealData, steps: int, checkpoint: Path | None = None, **options: Any) -> lightning.Trainer:
    """Train quietly on the CPU up to a number of generator updates, from a checkpoint on where one is given."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 10**9,
    }
    trainer = lightning.Trainer(max_steps=steps, **defaults | options)
    trainer.fit(gan, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return trainer


def load_script(name: str) -> ModuleType:
    """The program of that name, of the package or of scripts/."""
    if (ROOT / "gan_lightning" / "commands" / f"{name}.py").exists():
        return import_module(f"gan_lightning.commands.{name}")
    spec = spec_from_file_location(f"{name}_script", ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up their annotations
    spec.loader.exec_module(module)
    return module


class Lines(lightning.Callback):
    """Every line of a log, and G's weights at each."""

    def __init__(self) -> None:
        self.lines: list[dict[str, float]] = []
        self.weights: list[Tensor] = []

    def on_train_batch_end(self, trainer: Any, module: GAN, *_: Any) -> None:
        self.lines.append(module.log_line)
        self.weights.append(nn.utils.parameters_to_vector(module.game.generator.parameters()).detach().clone())
