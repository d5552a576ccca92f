"""Print samples of data that decode to words or numbers."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from gan_lightning.gan import GAN


class PrintSamples(Callback):
    """Prints ``samples`` samples of the generator ``at_steps`` and at the end, decoded by the data's ``decode``."""

    def __init__(self, at_steps: Sequence[int] = (0,), samples: int = 10) -> None:
        self.at_steps = sorted(at_steps)
        self.samples = samples
        self._printed = -1

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._printed = trainer.global_step or -1  # a resumed run has already printed the step that it starts from
        self._print_if_due(trainer, module)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._print_if_due(trainer, module)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self._printed < trainer.global_step:
            self._print(trainer, module)

    def _print_if_due(self, trainer: Trainer, module: LightningModule) -> None:
        if any(self._printed < step <= trainer.global_step for step in self.at_steps):
            self._print(trainer, module)

    def _print(self, trainer: Trainer, module: LightningModule) -> None:
        self._printed = trainer.global_step
        if trainer.is_global_zero:
            assert isinstance(module, GAN)
            noise = torch.Generator(module.device).manual_seed(trainer.global_step)
            decoded = trainer.datamodule.decode(module.sample(self.samples, noise))  # type: ignore[attr-defined]
            print(f"{trainer.global_step:>7}: {decoded.tolist()}", flush=True)
