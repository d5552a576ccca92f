"""Pictures of the averaged generator's samples, from the same latents throughout the run."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from gan_lightning import pictures
from gan_lightning.batch import Batch, as_rounds
from gan_lightning.callbacks.periodic import Periodic, show
from gan_lightning.files import spared
from gan_lightning.game import evaluating
from gan_lightning.gan import GAN
from gan_lightning.labels import whole_rows
from gan_lightning.loggers import show_histograms


class SamplePictures(Periodic):
    """Draws ``samples/STEP.png`` at step 0, every ``every_n_steps`` generator updates and at the end; also logs it.

    The data module draws the picture, from ``n`` samples or, if None, as many as suit it. ``real.png`` shows the same
    number of real samples from the first batch. TensorBoard also shows histograms of D's outputs on both. For a
    conditional generator, each row of images has one class.
    """

    def __init__(self, every_n_steps: int = 500, n: int | None = None) -> None:
        super().__init__(every_n_steps)
        self.n = n
        self._latents = torch.empty(0)
        self._labels: Tensor | None = None  # conditions of a conditional generator
        self._real: Batch | None = None  # of the first batch

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, GAN)
        n = self.n or int(getattr(trainer.datamodule, "shown", pictures.IMAGES))  # type: ignore[attr-defined]
        n = whole_rows(n, len(module.class_names))
        # from the run's seed, since the random state of a resumed run is restored only later
        self._latents = module.game.prior.sample(n, torch.Generator().manual_seed(torch.initial_seed()))
        self._labels = conditions(trainer, module, n)
        self._real = None
        super().on_train_start(trainer, module)
        if trainer.global_step == 0:
            self._draw_now(trainer, module)

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        assert isinstance(module, GAN)
        if self._real is not None or not trainer.is_global_zero:
            return
        self._real = real_samples(module, batch, len(self._latents))
        if trainer.global_step == 0:
            shown = self._real if module.game.is_conditional else Batch(self._real.x)
            with spared(f"A picture of {trainer.default_root_dir}"):
                picture = drawn(trainer, shown, "real data")
                show(trainer, "real", picture, "real.png")

    def draw(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, GAN)
        n = len(self._latents)
        samples = Batch(module.sample(n, latents=self._latents, labels=self._labels), self._labels)
        if not samples.x.isfinite().all():
            return  # the generator has diverged; the next line of the log or checkpoint reports it
        step, real = trainer.global_step, self._real
        picture = drawn(trainer, samples, f"step {step:,}")
        show(trainer, "samples", picture, f"samples/{step:07d}.png")
        if real is not None:
            show_histograms(trainer.loggers, lambda: outputs(module, real, self._latents), step)


def real_samples(module: GAN, batch: Any, n: int) -> Batch:
    """The first n real samples of a batch, or all if it has fewer."""
    rounds = as_rounds(batch, module.critic_steps, module.accumulate_grad_batches)
    return Batch(*(None if part is None else part.flatten(0, 3)[:n].clone() for part in rounds))  # type: ignore[arg-type]


def drawn(trainer: Trainer, samples: Batch, caption: str) -> Tensor:
    """Draw samples as the data module does; figures other than grids of images get a caption."""
    data, x, y = trainer.datamodule, samples.x.float().cpu(), None if samples.y is None else samples.y.cpu()  # type: ignore[attr-defined]
    picture: Tensor = data.picture(Batch(x, y)) if hasattr(data, "picture") else pictures.draw(x, labels=y)
    return picture if x.dim() == 4 else pictures.captioned(picture, caption)


def conditions(trainer: Trainer, module: GAN, n: int) -> Tensor | None:
    """The conditions for a picture of n samples, chosen by the data if it can; None for unconditional generators."""
    if not module.game.is_conditional:
        return None
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    return data.conditions(n) if hasattr(data, "conditions") else module.labels(n)


@torch.no_grad()
def outputs(module: GAN, real: Batch, latents: Tensor) -> Mapping[str, Tensor]:
    """D(x) and D(G(z)) of the live networks in evaluation mode."""
    z = latents[: len(real.x)].to(real.x)
    with evaluating(module.game):
        fake = module.game.generate(z, real.y)
        logits = {"outputs/real": module.game.judge(real), "outputs/fake": module.game.judge(fake)}
    return {name: module.game.loss.output(values) for name, values in logits.items()}
