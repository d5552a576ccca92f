"""SAN: D's last layer is a direction, trained by the Wasserstein loss (Takida et al. 2024)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from gan_lightning.batch import Batch
from gan_lightning.errors import UsageError
from gan_lightning.game import Game, Terms
from gan_lightning.labels import is_conditional
from gan_lightning.networks.spectral import LAYERS


class Direction(nn.Module):
    """<omega, h> twice, detaching omega and detaching h, (N, features) to (N, 2).

    omega = w / |w|, and |w| scales the features h, so the value is <w, h>, as in a linear layer without bias.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())

    def forward(self, features: Tensor) -> Tensor:
        omega, h = normalize(self.weight, dim=1), self.weight.norm() * features
        return torch.cat([linear(h, omega.detach()), linear(h.detach(), omega)], 1)


class SAN(Game):
    """The loss trains D's features h, and E <omega, h(G(z))> - E <omega, h(x)> trains the direction omega.

    This turns any GAN into a slicing adversarial network (Takida et al. 2024, section 5). The direction has no bias,
    and no spectral normalization where D's other layers have it: omega has norm 1 by construction.
    """

    own_terms = {"generator": ("adversarial",), "discriminator": ("adversarial", "direction")}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        layers = [(name, layer) for name, layer in self.discriminator.named_modules() if isinstance(layer, LAYERS)]
        name, last = layers[-1] if layers else ("", None)
        if not name or not isinstance(last, nn.Linear) or last.out_features > 1 or is_conditional(self.discriminator):
            raise UsageError(
                "game=san turns the discriminator's last layer into a direction: choose an unconditional discriminator "
                "whose last layer is linear with one output, such as model=mlp or model=resnet."
            )
        self.discriminator.set_submodule(name, Direction(last.weight))
        self.discriminator.register_forward_hook(_in_pairs)

    def discriminator_terms(self, real: Batch, fake: Batch, update: int) -> Terms:
        terms = super().discriminator_terms(real, fake, update)
        terms.losses["direction"] = (terms.outputs["fake"][:, 1] - terms.outputs["real"][:, 1]).mean()
        return terms


def _in_pairs(network: nn.Module, inputs: Any, outputs: Tensor) -> Tensor:
    """The values of ``Direction`` as (N, 2), if D has flattened what was one logit per sample to (2 N,)."""
    n = len(inputs[0])
    if outputs.shape == (2 * n,):
        return outputs.view(n, 2)
    if outputs.shape != (n, 2):
        raise UsageError(
            f"The discriminator gives outputs {tuple(outputs.shape)} for {n} samples, but game=san takes what its last "
            "layer returns, (N, 2): leave out what follows it."
        )
    return outputs
