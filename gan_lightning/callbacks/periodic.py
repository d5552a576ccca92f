"""A base class of callbacks that draw at regular steps."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from gan_lightning.files import spared
from gan_lightning.loggers import log_picture
from gan_lightning.pictures import write_png


class Periodic(Callback):
    """Calls ``draw`` whenever training passes a multiple of ``every_n_steps`` generator updates, and at the end.

    A batch of several rounds may step over the exact multiple. A resumed run continues the schedule.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self._last = -1  # the step of the last drawing, or the one that training started from

    def state_dict(self) -> dict[str, Any]:
        return {"last": self._last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._last = state["last"]

    def draw(self, trainer: Trainer, module: LightningModule) -> None:
        raise TypeError(f"{type(self).__name__} must define what it draws")

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if self._last < 0:
            self._last = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step // self.every_n_steps > self._last // self.every_n_steps:
            self._draw_now(trainer, module)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.global_step > self._last:
            self._draw_now(trainer, module)

    def _draw_now(self, trainer: Trainer, module: LightningModule) -> None:
        self._last = trainer.global_step
        if trainer.is_global_zero:
            with spared(f"A picture of {trainer.default_root_dir}"):
                self.draw(trainer, module)


def show(trainer: Trainer, name: str, picture: Tensor, file: str) -> None:
    """Write a uint8 picture (3, height, width) to a PNG file in the run's folder, and log it by name."""
    encoded = write_png(picture, Path(trainer.default_root_dir) / file)  # once, since this takes as long as drawing
    log_picture(trainer.loggers, name, picture, encoded, trainer.global_step)
