"""Preview a run: its data, its networks and its cost; nothing is written to its folder."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from omegaconf import DictConfig, open_dict
from torch import Tensor, nn

from gan_lightning import pictures
from gan_lightning.batch import Batch
from gan_lightning.build import build_trainer
from gan_lightning.callbacks.samples import drawn, real_samples
from gan_lightning.callbacks.summary import peak_memory
from gan_lightning.data.loader import RealData
from gan_lightning.gan import GAN
from gan_lightning.graphs import EAGER
from gan_lightning.options import columns
from gan_lightning.processor import threads_for
from gan_lightning.training import data_and_gan, planned_steps, quiet, rehearse, set_up

ROUNDS = 5  # timed rounds, after a slower first one and before a last one
# options of the Trainer for these rounds
SHORT = {
    **{"max_epochs": -1, "min_steps": None, "min_epochs": None, "max_time": None},
    **{"fast_dev_run": False, "limit_val_batches": 0, "num_sanity_val_steps": 0, "profiler": None},
    **{"devices": 1, "num_nodes": 1, "strategy": "auto"},
    **dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
}


class Rounds(Callback):
    """Keeps real samples of the first batch and the start time of each round."""

    def __init__(self, samples: int, warm_up: int = 1) -> None:
        self.samples = samples
        self.warm_up = warm_up  # the first rounds, whose time does not count
        self.real: Batch | None = None
        self.begins: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.real is None:
            assert isinstance(module, GAN)
            self.real = real_samples(module, batch, self.samples)
            module.round.play = partial(self._play, module.round.play)  # type: ignore[method-assign]

    def _play(self, play: Callable[..., None], *args: Any) -> None:
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        self.begins.append(time.monotonic())
        play(*args)

    @property
    def seconds(self) -> float | None:
        """The average time per round after the warm-up; None for a GAN that has no rounds."""
        counted = self.begins[self.warm_up :]
        return (counted[-1] - counted[0]) / (len(counted) - 1) if counted else None


def show(config: DictConfig, folder: Path) -> None:
    """Print a summary of the data and the networks, and the time and memory of a run as measured in a few rounds.

    Raises:
        UsageError: the configuration cannot be trained.
    """
    quiet()
    data, gan = data_and_gan(config)
    warm_up = 1 + EAGER if gan.cuda_graphs else 1
    rounds = Rounds(data.shown, warm_up)
    trainer = build_trainer(shortened(config, warm_up), folder, [rounds])
    set_up(data, trainer, gan)
    with shapes_of(gan.game) as shapes:
        rehearse(trainer, gan, data)
    with threads_for(gan, data, config.trainer.get("threads")):
        trainer.fit(gan, datamodule=data)
    assert rounds.real is not None
    is_one = (config.trainer.devices, config.trainer.num_nodes) == (1, 1)
    on = "" if is_one else " on one device"  # these rounds are played on one, whatever the run is to have
    print(f"\n{describe(data, rounds.real, on)}\nPicture of real samples: {write_picture(trainer, rounds.real)}")
    for name, network in players(gan).items():
        print(f"\n{table(name, network, shapes)}")
    steps = planned_steps(config.trainer, data)
    print(f"\n{cost(rounds.seconds, steps, peak_memory(trainer.strategy.root_device), on)}")


def shortened(config: DictConfig, warm_up: int) -> DictConfig:
    """The configuration with a Trainer on one device that only plays these rounds, after a warm-up."""
    config = config.copy()
    with open_dict(config):
        config.trainer.update(SHORT | {"max_steps": warm_up + ROUNDS + 1})
        config.logger = {}
    return config


def players(gan: GAN) -> dict[str, nn.Module]:
    """The players' networks by name."""
    played = {network for networks in gan.game.players().values() for network in networks}
    return {name: part for name, part in gan.game.named_children() if part in played}


@contextmanager
def shapes_of(network: nn.Module) -> Iterator[dict[nn.Module, tuple[int, ...]]]:
    """Record the shape of each module's first output, without the batch dimension."""
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def see(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            shapes.setdefault(module, tuple(output.shape[1:]))

    hooks = [module.register_forward_hook(see) for module in network.modules()]
    try:
        yield shapes
    finally:
        for hook in hooks:
            hook.remove()


def table(name: str, network: nn.Module, shapes: Mapping[nn.Module, tuple[int, ...]]) -> str:
    """A table of a network's layers: names, types, output shapes and numbers of parameters."""
    rows = [
        (f"  {place}", type(layer).__name__, " x ".join(map(str, shapes.get(layer, ()))), f"{parameters:,}")
        for place, layer, parameters in layers(network)
    ]
    total = sum(weight.numel() for weight in network.parameters())
    return f"{name}: {type(network).__name__}, {total:,} parameters\n{columns(rows)}"


def layers(network: nn.Module, place: str = "") -> Iterator[tuple[str, nn.Module, int]]:
    """Names, modules and numbers of parameters, in order, of leaf modules and modules with parameters of their own."""
    parts = {name: part for name, part in network.named_children() if name != "parametrizations"}
    own = sum(weight.numel() for weight in network.parameters(recurse=not parts))
    if own or not parts:
        yield place, network, own
    for name, part in parts.items():
        yield from layers(part, f"{place}.{name}".removeprefix("."))


def describe(data: RealData, real: Batch, on: str = "") -> str:
    """The data's size, shape, classes and range of values; ``on`` names the devices that updates are counted for."""
    names = [*data.class_names[:10], *(["..."] if data.classes > 10 else [])]
    rows = [
        ("data", data.fingerprint or type(data).__name__),
        (f"updates per epoch{on}", f"{data.rounds_in_epoch():,}"),
        ("shape", " x ".join(map(str, data.sample_shape))),
        ("classes", f"{data.classes}: {', '.join(names)}" if names else "none"),
        ("range", "unbounded" if data.value_range is None else "{} to {}".format(*data.value_range)),
        ("values", f"{real.x.min().item():.4g} to {real.x.max().item():.4g} in the first {len(real.x):,} samples"),
    ]
    return columns(rows)


def write_picture(trainer: Trainer, real: Batch) -> Path:
    """Write a picture of real samples to a temporary folder, and return its path."""
    path = Path(tempfile.mkdtemp(prefix="gan_lightning-")) / "real.png"
    pictures.write_png(drawn(trainer, real, "real data"), path)
    return path


def cost(seconds: float | None, steps: int | None, memory: int, on: str = "") -> str:
    """Describe the cost of a run of ``steps`` updates of ``seconds`` each; None for an unknown number."""
    space = f"{memory / 2**30:.2f} GiB of memory"
    if seconds is None:
        return space
    speed = f"{1000 * seconds:.3g} ms per update, {space}, measured over {ROUNDS} updates"
    if steps is None:
        return speed
    length = timedelta(seconds=round(seconds * steps))
    return f"{steps:,} updates{on} take about {length}, not counting validation and pictures: {speed}"
