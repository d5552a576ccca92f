"""Validation of generated samples against held-out real samples."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torchmetrics import MeanMetric, Metric, MetricCollection

from gan_lightning.absent import Absent
from gan_lightning.batch import Batch
from gan_lightning.game import Game
from gan_lightning.losses import Loss
from gan_lightning.streams import fixed_rows, stream_seed


def equilibrium(loss: Loss) -> float:
    """The game's value where p_g = p_data and D is optimal, real_target / 2; -log 4 without label smoothing."""
    return math.log(loss.real_target / 2) + math.log(1 - loss.real_target / 2)


def has_value(game: Game) -> bool:
    """Whether there is a D and its output is a probability."""
    return game.loss.is_probability and not isinstance(game.discriminator, Absent)


def latents_seed(seed: int) -> int:
    """The seed of the random stream for validation latents."""
    return stream_seed("validation", seed)


class Validation(nn.Module):
    """The data's metrics, and the game's value V(D, G) if D is a probability.

    V = E log D(x) + E log(1 - D(G(z))) (Goodfellow et al. 2014, equation 1).
    """

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        super().__init__()
        self.metrics = MetricCollection(dict(metrics), prefix="val/")
        self.value = MeanMetric()
        self.seen = 0  # samples in this process and validation

    def update(self, game: Game, real: Batch, seed: int, rank: int, world_size: int) -> None:
        """Compare a real batch with as many generated samples; k processes together use the same samples as one.

        The latents come from their own random stream, which depends only on the seed: they are the same at every step
        of a run and differ between seeds, so the spread over seeds includes their variance.
        """
        start, self.seen = self.seen, self.seen + len(real.x)
        z = fixed_rows(game.prior.sample, latents_seed(seed), start * world_size, self.seen * world_size)
        z = z[rank::world_size]
        fake = game.generate(z.to(real.x), real.y)
        if len(self.metrics):  # without labels, they do not measure by class
            self.metrics.update(fake if game.is_conditional else fake._replace(y=None), real)
        if has_value(game):
            self.value.update(-softplus(-game.judge(real)) - softplus(game.judge(fake)))

    def compute(self, game: Game, device: torch.device) -> dict[str, Tensor]:
        """Return the metrics by name, and reset them."""
        # some metrics compute on the CPU, but NCCL reduces only tensors on the device
        values = {name: value.to(device) for name, value in self.metrics.compute().items()}
        if has_value(game):
            values["val/value"] = self.value.compute()
        self.metrics.reset()
        self.value.reset()
        self.seen = 0
        return values
