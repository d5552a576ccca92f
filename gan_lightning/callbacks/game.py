"""Pictures specific to a game: codes varied one by one, reconstructions, translations."""

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from gan_lightning.batch import Batch, apply
from gan_lightning.callbacks.periodic import Periodic, show
from gan_lightning.data.loader import RealData
from gan_lightning.errors import UsageError
from gan_lightning.game import Game
from gan_lightning.gan import GAN


class GamePictures(Periodic):
    """Draws ``NAME/STEP.png``: the rows of ``Game.illustrate``, from the same n latents and n held-out samples."""

    def __init__(self, name: str, every_n_steps: int = 500, n: int = 16) -> None:
        super().__init__(every_n_steps)
        self.name = name
        self.n = n
        self._latents = torch.empty(0)
        self._real = Batch(torch.empty(0))

    def rehearse(self, module: GAN, data: RealData) -> None:
        """Generate the rows once, before anything is trained or written.

        Raises:
            UsageError: the game has no such rows, or the data has no samples for them.
        """
        if type(module.game).illustrate is Game.illustrate:
            raise UsageError(
                f"callbacks.{self.name} draws pictures specific to a game, but {type(module.game).__name__} has "
                f"none: remove it with ~callbacks.{self.name}."
            )
        self._begin(module, data)
        self._rows(module)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, GAN)
        self._begin(module, trainer.datamodule)  # type: ignore[attr-defined]
        super().on_train_start(trainer, module)

    def _begin(self, module: GAN, data: RealData) -> None:
        self._real = data.held_out_samples(self.n)
        noise = torch.Generator().manual_seed(torch.initial_seed())
        self._latents = module.game.prior.sample(len(self._real.x), noise)

    @torch.no_grad()
    def _rows(self, module: GAN) -> Tensor:
        """The rows, (rows, columns, *sample_shape), from the averaged networks."""
        z = self._latents.to(module.device).to(module.dtype)
        real = apply(lambda part: part.to(z) if part.is_floating_point() else part.to(z.device), self._real)
        with module.sampling():
            return module.game.illustrate(z, real).float().cpu()

    def draw(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, GAN)
        rows = self._rows(module)
        if not rows.isfinite().all():
            return  # the generator has diverged; the next line of the log or checkpoint reports it
        picture = trainer.datamodule.picture(Batch(rows.flatten(0, 1)), rows.shape[1])  # type: ignore[attr-defined]
        show(trainer, self.name, picture, f"{self.name}/{trainer.global_step:07d}.png")
