"""SAN: D's last layer is a direction, which Wasserstein's loss trains (Takida et al. 2024)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from gan_lightning.batch import Batch
from gan_lightning.errors import UsageError
from gan_lightning.game import Game, Terms, is_conditional
from gan_lightning.networks.spectral import LAYERS


class Direction(nn.Module):
    """<omega, h> twice, with omega fixed and with h fixed, (N, features) to (N, 2).

    omega = w / |w|, and |w| scales the features h, so that the value is <w, h>, a linear layer's without a bias.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())

    def forward(self, features: Tensor) -> Tensor:
        omega, h = normalize(self.weight, dim=1), self.weight.norm() * features
        return torch.cat([linear(h, omega.detach()), linear(h.detach(), omega)], 1)


class SAN(Game):
    """The loss trains D's features h, and E <omega, h(G(z))> - E <omega, h(x)> their direction omega.

    Any loss of the two players becomes a slicing adversarial network's (Takida et al. 2024, section 5).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        layers = [(name, layer) for name, layer in self.discriminator.named_modules() if isinstance(layer, LAYERS)]
        name, last = layers[-1] if layers else ("", None)
        if not name or not isinstance(last, nn.Linear) or last.out_features > 1 or is_conditional(self.discriminator):
            raise UsageError(
                "game=san makes a direction of the discriminator's last layer: give one that ends in a linear layer to "
                "one output and takes no classes, such as model=mlp or model=resnet."
            )
        self.discriminator.set_submodule(name, Direction(last.weight))

    def discriminator_terms(self, real: Batch, fake: Batch, update: int) -> Terms:
        terms = super().discriminator_terms(real, fake, update)
        terms.losses["direction"] = (terms.outputs["fake"][:, 1] - terms.outputs["real"][:, 1]).mean()
        return terms
