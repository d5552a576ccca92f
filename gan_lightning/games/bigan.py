"""BiGAN, also ALI: D judges pairs (x, E(x)) and (G(z), z) (Donahue et al. 2017; Dumoulin et al. 2017)."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from gan_lightning.batch import Batch
from gan_lightning.errors import UsageError
from gan_lightning.game import Game, Terms
from gan_lightning.metrics.reconstruction import Reconstruction


class BiGAN(Game):
    """An encoder E, (N, *sample_shape) to (N, latent_size), plays with G: at the optimum it inverts it (theorem 2).

    Its term is G's with the roles of real and fake exchanged: D's output on (x, E(x)), mirrored about the threshold.
    """

    averaged = ("generator", "encoder")

    def __init__(
        self, *args: Any, encoder: nn.Module | None = None, latent_size: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if encoder is None:
            raise UsageError("game=bigan trains an encoder, and this model has none: choose model=bigan.")
        self.encoder = encoder

    @classmethod
    def network_options(
        cls, network: str, sample_shape: tuple[int, ...], classes: int, latent_size: int = 1, **options: Any
    ) -> dict[str, Any]:
        given = super().network_options(network, sample_shape, classes, **options)
        if network == "encoder":
            return given | {"outputs": latent_size}
        joined = (math.prod(sample_shape) + latent_size,)
        return given | ({"sample_shape": joined} if network == "discriminator" else {})

    def players(self) -> dict[str, list[nn.Module]]:
        return {"generator": [self.generator, self.encoder], "discriminator": [self.discriminator]}

    def read(self, sample: Batch) -> Tensor:
        """D's outputs on the samples joined to their latents, which E gives where there are none."""
        z = self.encoder(sample.x) if sample.z is None else sample.z
        return super().read(sample._replace(x=torch.cat([sample.x.flatten(1), z], 1)))

    def discriminator_terms(self, real: Batch, fake: Batch, update: int) -> Terms:
        with torch.no_grad():  # E has no gradient where D learns
            real = real._replace(z=self.encoder(real.x))
        return super().discriminator_terms(real, fake, update)

    def generator_terms(self, real: Batch, fake: Batch, update: int) -> Terms:
        real = real._replace(z=self.encoder(real.x))
        terms = super().generator_terms(real, fake, update)
        if not self.loss.generator_needs_real:  # else E has its gradient already
            mirrored = 2 * self.loss.threshold - self.judge(real)
            terms.losses["encoder"] = self.loss.generator(real_logits=None, fake_logits=mirrored).mean()
        return terms

    def reconstruct(self, x: Tensor) -> Tensor:
        """G(E(x)), (N, *sample_shape)."""
        return self.generate(self.encoder(x)).x

    def metrics(self, data: Any) -> dict[str, Any]:
        """How far G(E(x)) is from a held-out image x, beside the training image that is nearest to it."""
        if not isinstance(getattr(data, "images", None), Tensor):
            return {}
        return {"reconstruction": Reconstruction(self.reconstruct, data.images, data.value_range)}

    def illustrate(self, z: Tensor, real: Batch) -> Tensor:
        """Held-out samples and below them their reconstructions, (2, N, *sample_shape)."""
        return torch.stack([real.x, self.reconstruct(real.x)])
