"""Progress: a Rich bar in a terminal, one line every few seconds elsewhere."""

import math
import sys
import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar

from gan_lightning.gan import GAN

SHOWN = {"images/s": "images_per_second", "loss_d": "loss/discriminator", "loss_g": "loss/generator"}


def progress(every_seconds: float = 5.0) -> ProgressBar:
    """What suits the place that the output goes to."""
    return TerminalProgress(refresh_rate=10) if sys.stdout.isatty() else ProgressLines(every_seconds)


def last_line(module: LightningModule) -> dict[str, Any]:
    """What a bar shows of the last line of the log."""
    assert isinstance(module, GAN)
    return {name: module.log_line[key] for name, key in SHOWN.items() if key in module.log_line}


class TerminalProgress(RichProgressBar):
    """Lightning's Rich bar, which for a run without a number of epochs would say "Epoch 3/-2"."""

    def _get_train_description(self, current_epoch: int) -> str:
        return super()._get_train_description(current_epoch).removesuffix("/-2")

    def get_metrics(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        metrics = last_line(module) | super().get_metrics(trainer, module)
        return {name: _short(value) if isinstance(value, float) else value for name, value in metrics.items()}


class ProgressLines(ProgressBar):
    """Prints the step, the losses and the metrics every ``every_seconds``, for where there is no terminal."""

    def __init__(self, every_seconds: float = 5.0) -> None:
        super().__init__()
        self.every_seconds = every_seconds
        self._printed_at = 0.0
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._printed_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if now - self._printed_at >= self.every_seconds:
            self._printed_at = now
            self._print(trainer, module)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._print(trainer, module)

    def _print(self, trainer: Trainer, module: LightningModule) -> None:
        if not self._enabled:
            return
        metrics = last_line(module) | self.get_metrics(trainer, module)
        metrics.pop("v_num", None)
        steps = f"step {trainer.global_step}" + (f"/{trainer.max_steps}" if trainer.max_steps >= 0 else "")
        epochs = f"epoch {trainer.current_epoch}" + (
            f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) >= 0 else ""
        )
        values = ", ".join(f"{k} {_short(v)}" for k, v in metrics.items())
        print(", ".join(part for part in (epochs, steps, values) if part), flush=True)


def _short(value: Any) -> str:
    if not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if 1000 <= value < math.inf else f"{value:.4g}"
