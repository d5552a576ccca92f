"""The networks of PacGAN's experiments (Lin et al. 2018), as in the authors' code: for points and for Stacked MNIST."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from gan_lightning.errors import UsageError
from gan_lightning.networks.maxout import MaxoutLinear

EPS, MOMENTUM = 1e-4, 0.05  # of BatchNorm for points; for images, PyTorch's defaults
# sides of the maps, each about half of the next; where it is exactly half, TensorFlow, in the authors' code, crops the
# last row and column when upsampling and pads there when downsampling, where this code does so with the first
SIDES = {28: (4, 7, 14, 28), 32: (4, 8, 16, 32)}
SLOPE = 0.3


def initialize(network: nn.Module) -> None:
    """Initialize weights from N(0, 0.02) and biases to 0; BatchNorm keeps 1 and 0.

    The authors truncate the normal distribution of convolutions at two standard deviations.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class Generator(nn.Module):
    """Linear-BatchNorm-ReLU blocks without biases and a linear layer, (N, latent_size) to (N, *sample_shape).

    Section 4.1; there are ``layers`` blocks of ``width`` units.
    """

    def __init__(self, latent_size: int, sample_shape: tuple[int, ...], width: int = 400, layers: int = 4) -> None:
        super().__init__()
        self.sample_shape = tuple(sample_shape)
        blocks: list[nn.Module] = []
        for inputs, outputs in pairwise([latent_size, *[width] * layers]):
            blocks += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs, EPS, MOMENTUM), nn.ReLU()]
        self.layers = nn.Sequential(*blocks, nn.Linear(width, math.prod(sample_shape)))
        initialize(self)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z).unflatten(1, self.sample_shape)


class Discriminator(nn.Module):
    """Three maxout layers and a linear layer, (N, *sample_shape) to logits (N,), or (N, outputs); section 4.1."""

    samplewise = True

    def __init__(
        self, sample_shape: tuple[int, ...], width: int = 200, layers: int = 3, pieces: int = 5, outputs: int = 1
    ) -> None:
        super().__init__()
        sizes = [math.prod(sample_shape), *[width] * layers]
        self.layers = nn.Sequential(
            *(MaxoutLinear(inputs, units, pieces) for inputs, units in pairwise(sizes)), nn.Linear(width, outputs)
        )
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1)).squeeze(1)


def sides(sample_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The sides of the maps, smallest first.

    Raises:
        UsageError: the shape is not (channels, n, n) with n = 28 or 32.
    """
    if len(sample_shape) != 3 or sample_shape[1] != sample_shape[2] or sample_shape[1] not in SIDES:
        raise UsageError(
            f"model=pacgan_stacked makes images of 28 or 32 pixels, but the data has samples of shape "
            f"{tuple(sample_shape)}: choose a dataset of such images, or another model."
        )
    return SIDES[sample_shape[1]]


class StackedGenerator(nn.Module):
    """A linear layer, three transposed 3x3 convolutions and a 3x3 convolution, (N, latent_size) to tanh images.

    By default with 64 maps of 4x4, then 32, 16 and 8 maps, each with BatchNorm and ReLU; section 4.2 (the networks of
    Metz et al. 2017).
    """

    memory_format = torch.channels_last  # during training: convolutions are faster

    def __init__(self, latent_size: int, sample_shape: tuple[int, ...], width: int = 8) -> None:
        super().__init__()
        first, *others = sides(sample_shape)
        maps = 8 * width
        layers: list[nn.Module] = [nn.Linear(latent_size, maps * first**2), nn.Unflatten(1, (maps, first, first))]
        layers += [nn.BatchNorm2d(maps), nn.ReLU()]
        for before, after in pairwise([first, *others]):
            added = after - 2 * before + 1  # output_padding: the transposed convolution gives 2 n - 1 without it
            layers += [nn.ConvTranspose2d(maps, maps // 2, 3, 2, 1, added), nn.BatchNorm2d(maps // 2), nn.ReLU()]
            maps //= 2
        self.layers = nn.Sequential(*layers, nn.Conv2d(maps, sample_shape[0], 3, padding=1), nn.Tanh())
        initialize(self)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


class StackedDiscriminator(nn.Module):
    """Three strided 3x3 convolutions of ``width``, 2 and 4 ``width`` maps with BatchNorm, images to logits.

    Section 4.2: with a width of 2 it is a quarter as wide as G, with 4 half as wide.
    """

    memory_format = torch.channels_last  # during training: convolutions are faster

    def __init__(self, sample_shape: tuple[int, ...], width: int = 2, outputs: int = 1) -> None:
        super().__init__()
        last = sides(sample_shape)[0]
        layers: list[nn.Module] = []
        for before, after in pairwise([sample_shape[0], width, 2 * width, 4 * width]):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.LeakyReLU(SLOPE)]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width * last**2, outputs))
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).squeeze(1)
