"""The generator of PyTorch-GAN's first example (github.com/eriklindernoren/PyTorch-GAN, implementations/gan)."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class Generator(nn.Module):
    """Linear-BatchNorm-LeakyReLU(0.2) blocks, the first without BatchNorm, and a linear layer, latents to tanh samples.

    The example passes 0.8 as BatchNorm's second argument, which is ``eps``.
    """

    def __init__(
        self, latent_size: int, sample_shape: tuple[int, ...], widths: Sequence[int], norm_eps: float = 0.8
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(latent_size, widths[0]), nn.LeakyReLU(0.2)]
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs, norm_eps), nn.LeakyReLU(0.2)]
        layers += [nn.Linear(widths[-1], math.prod(sample_shape)), nn.Tanh(), nn.Unflatten(1, tuple(sample_shape))]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)
