"""Random Fourier features, by which a discriminator of points sees details much smaller than the data's extent."""

import math

import torch
from torch import Tensor, nn

FEATURES = 64


class FourierFeatures(nn.Module):
    """[x, sin(2 pi B x), cos(2 pi B x)], (N, d) to (N, d + 128), with a fixed B ~ N(0, scale^2), (64, d).

    An MLP learns low frequencies first, and the features have the frequencies B (Tancik et al. 2020, section 5, without
    x itself). ``scale`` is in cycles per unit of the data.
    """

    frequencies: Tensor

    def __init__(self, inputs: int, scale: float) -> None:
        super().__init__()
        self.size = inputs + 2 * FEATURES
        self.register_buffer("frequencies", scale * torch.randn(FEATURES, inputs))

    def forward(self, x: Tensor) -> Tensor:
        phases = 2 * math.pi * x @ self.frequencies.T
        return torch.cat([x, phases.sin(), phases.cos()], 1)
