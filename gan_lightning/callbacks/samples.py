"""Pictures of the averaged generator's samples, from the same latents all through the run."""

from pathlib import Path

import torch
from lightning import LightningModule, Trainer

from gan_lightning import pictures
from gan_lightning.batch import Batch
from gan_lightning.callbacks.periodic import Periodic
from gan_lightning.gan import GAN
from gan_lightning.loggers import log_picture


class SamplePictures(Periodic):
    """``samples/STEP.png`` at step 0, every ``every_n_steps`` generator updates and at the end; also in the loggers.

    A data module draws its own picture, of ``n`` samples or, for None, of as many as suit it.
    """

    def __init__(self, every_n_steps: int = 500, n: int | None = None) -> None:
        super().__init__(every_n_steps)
        self.n = n
        self._latents = torch.empty(0)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, GAN)
        n = self.n or int(getattr(trainer.datamodule, "shown", pictures.IMAGES))  # type: ignore[attr-defined]
        # from the run's seed, also in a resumed run, whose random state is restored only after this
        self._latents = module.game.prior.sample(n, torch.Generator().manual_seed(torch.initial_seed()))
        super().on_train_start(trainer, module)
        if trainer.global_step == 0:
            self._draw_now(trainer, module)

    def draw(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, GAN)
        samples = module.sample(len(self._latents), latents=self._latents).float().cpu()
        if not samples.isfinite().all():
            return  # the generator has diverged, which the next line of the log or checkpoint says
        data = trainer.datamodule  # type: ignore[attr-defined]
        picture = data.picture(Batch(samples)) if hasattr(data, "picture") else pictures.draw(samples)
        folder = Path(trainer.default_root_dir) / "samples"
        pictures.write_png(picture, folder / f"{trainer.global_step:07d}.png")
        log_picture(trainer.loggers, "samples", picture, trainer.global_step)
