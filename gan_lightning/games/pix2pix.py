"""pix2pix (Isola et al. 2017): G translates an image y into x, and D judges pairs (x, y)."""

from typing import Any

import torch
from torch import Tensor

from gan_lightning.batch import Batch
from gan_lightning.errors import UsageError
from gan_lightning.game import Game, Terms
from gan_lightning.labels import is_conditional


class Pix2Pix(Game):
    """L_G = adversarial_weight L_adv + l1_weight E |x - G(y)|, a mean over pixels (equation 4).

    Both networks are conditional; y is an image of the same shape as x.
    """

    translates = judges_pairs = True
    own_terms = {"generator": ("adversarial", "l1"), "discriminator": ("adversarial",)}

    def __init__(self, *args: Any, l1_weight: float = 100.0, adversarial_weight: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not all(map(is_conditional, (self.generator, self.discriminator))):
            raise UsageError(
                "game=pix2pix needs a conditional generator and discriminator: choose model=pix2pix, or set "
                "conditional = True in your own networks."
            )
        self.l1_weight, self.adversarial_weight = l1_weight, adversarial_weight

    def generator_terms(self, real: Batch, fake: Batch, update: int) -> Terms:
        terms = super().generator_terms(real, fake, update)
        terms.losses["adversarial"] = self.adversarial_weight * terms.losses["adversarial"]
        terms.losses["l1"] = self.l1_weight * (real.x - fake.x).abs().mean()
        return terms

    def illustrate(self, z: Tensor, real: Batch) -> Tensor:
        """Rows of held-out inputs, G's outputs and targets, (3, N, *sample_shape)."""
        assert real.y is not None
        return torch.stack([real.y, self.generate(z, real.y).x, real.x])
