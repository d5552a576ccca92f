"""BiGAN: D judges pairs (x, E(x)) and (G(z), z) (Donahue et al. 2017; ALI with a deterministic encoder)."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from gan_lightning.batch import Batch
from gan_lightning.errors import UsageError
from gan_lightning.game import Game, Terms
from gan_lightning.metrics.reconstruction import Reconstruction
from gan_lightning.pixels import as_bytes


class Pair(Batch):
    """Samples and latents concatenated to one vector x, (N, features + latent_size)."""

    @property
    def samples(self) -> Tensor:
        assert self.z is not None
        return self.x[:, : -self.z.shape[1]]


class BiGAN(Game):
    """An encoder E, (N, *sample_shape) to (N, latent_size), trains with G; at the optimum it inverts G (theorem 2).

    E's loss is G's with real and fake exchanged: D's output on (x, E(x)), reflected about the targets' middle. Gradient
    penalties apply to both halves of a pair.
    """

    judges_pairs = True
    averaged = ("generator", "encoder")
    own_terms = {"generator": ("adversarial", "encoder"), "discriminator": ("adversarial",)}

    def __init__(self, *args: Any, encoder: nn.Module | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if encoder is None:
            raise UsageError("game=bigan trains an encoder, but this model has none: choose model=bigan.")
        self.encoder = encoder
        if self.is_conditional:
            raise UsageError("game=bigan does not support classes: leave out model.conditional.")

    @classmethod
    def network_options(
        cls, network: str, sample_shape: tuple[int, ...], classes: int, **options: Any
    ) -> dict[str, Any]:
        given = super().network_options(network, sample_shape, classes, **options)
        if network == "encoder":
            return given | {"outputs": options["prior"].size}
        joined = (math.prod(sample_shape) + options["prior"].size,)
        return given | ({"sample_shape": joined} if network == "discriminator" else {})

    def players(self) -> dict[str, list[nn.Module]]:
        return {"generator": [self.generator, self.encoder], "discriminator": [self.discriminator]}

    def prepare(self, real: Batch) -> Batch:
        """The pairs (x, E(x)), or (x, z) for samples with latents."""
        if isinstance(real, Pair):
            return real
        z = self.encoder(real.x) if real.z is None else real.z
        return Pair(torch.cat([real.x.flatten(1), z], 1), real.y, z)

    def read(self, sample: Batch) -> Tensor:
        return super().read(self.prepare(sample))

    def discriminator_terms(self, real: Batch, fake: Batch, update: int) -> Terms:
        with torch.no_grad():  # D's update has no gradient in E
            real, fake = self.prepare(real), self.prepare(fake)
        return super().discriminator_terms(real, fake, update)

    def generator_terms(self, real: Batch, fake: Batch, update: int) -> Terms:
        real, fake = self.prepare(real), self.prepare(fake)
        terms = super().generator_terms(real, fake, update)
        if not self.loss.generator_needs_real:  # otherwise E already has a gradient
            mirrored = 2 * self.loss.middle - self.judge(real)
            terms.losses["encoder"] = self.loss.generator(real_logits=None, fake_logits=mirrored).mean()
        return terms

    def reconstruct(self, x: Tensor) -> Tensor:
        """G(E(x)), (N, *sample_shape)."""
        return self.generate(self.encoder(x)).x

    def metrics(self, data: Any) -> dict[str, Any]:
        """The distance of G(E(x)) from a held-out image x, and that of the nearest training image."""
        if not isinstance(getattr(data, "images", None), Tensor):
            return {}
        training = as_bytes(data.images, data.value_range)
        return {"reconstruction": Reconstruction(self.reconstruct, training, data.value_range)}

    def illustrate(self, z: Tensor, real: Batch) -> Tensor:
        """Held-out samples above their reconstructions, (2, N, *sample_shape)."""
        return torch.stack([real.x, self.reconstruct(real.x)])
