"""Checkpoints after given seconds of training, which also limit the length of the run."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from gan_lightning.callbacks.checkpoint import write
from gan_lightning.checks import POSITIVE
from gan_lightning.errors import UsageError


class Clock(Callback):
    """Keeps a checkpoint such as ``at_60s.ckpt`` after each of ``at_seconds`` of training; ends the run after the last.

    The clock runs only while batches are trained, across resumes, and not during validation, pictures, checkpoints and
    data loading. It must be the first callback, or it counts the time of those before it. Several processes use the
    mean of their times. A batch is never cut short: ``seconds`` in the checkpoint is the exact time.
    """

    def __init__(self, at_seconds: Sequence[float]) -> None:
        if not at_seconds or not all(map(POSITIVE[0], at_seconds)):
            raise UsageError(f"callbacks.clock.at_seconds is {list(at_seconds)}: give a list of numbers above 0.")
        self.at_seconds = sorted(set(at_seconds))
        self.seconds = 0.0
        self._began = 0.0

    @property
    def is_over(self) -> bool:
        """Whether the last of ``at_seconds`` has passed."""
        return self.seconds >= self.at_seconds[-1]

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seconds = state["seconds"]

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        before = self.seconds
        self.seconds += mean_over_ranks(trainer, module, time.perf_counter() - self._began)
        for seconds in self.at_seconds:
            if before < seconds <= self.seconds:
                write(trainer, at(seconds))
        if self.is_over:
            trainer.should_stop = True


def at(seconds: float) -> str:
    """The name of the checkpoint that is kept after this time."""
    return f"at_{seconds:g}s.ckpt"


def mean_over_ranks(trainer: Trainer, module: LightningModule, seconds: float) -> float:
    """The mean over all processes."""
    if trainer.world_size == 1:
        return seconds  # without a tensor, which would synchronize a GPU
    mean = trainer.strategy.reduce(torch.tensor(seconds, device=module.device), reduce_op="mean")
    return float(mean)
