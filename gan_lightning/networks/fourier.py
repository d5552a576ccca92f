"""Random Fourier features, by which a discriminator of points sees details much smaller than the data's extent."""

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn

FEATURES = 64


class FourierFeatures(nn.Module):
    """[x, sin(2 pi s B x), cos(2 pi s B x)], (N, d) to (N, d + 128), with a fixed B ~ N(0, I), (64, d).

    An MLP learns low frequencies first; the features let it learn frequencies around the scale s, in cycles per unit of
    the data (Tancik et al. 2020, section 6, there without x itself).
    """

    frequencies: Tensor

    def __init__(self, inputs: int, scale: float) -> None:
        super().__init__()
        self.size = inputs + 2 * FEATURES
        self.scale = scale
        self.register_buffer("frequencies", torch.randn(FEATURES, inputs))

    def forward(self, x: Tensor) -> Tensor:
        # the phases of points far from 0 need full precision; the meta device has no autocast
        with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            x = x.to(self.frequencies.dtype)
            phases = 2 * math.pi * x @ (self.scale * self.frequencies).T
        return torch.cat([x, phases.sin(), phases.cos()], 1)
