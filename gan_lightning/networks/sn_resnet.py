"""The residual networks of Miyato et al. 2018 (table 4) for images of any height and width.

Unlike the authors', D's last layer has a bias.
"""

import math

import torch
from torch import Tensor, nn

from gan_lightning.networks.pyramid import pyramid


def doubled() -> nn.Upsample:
    return nn.Upsample(scale_factor=2)  # nearest neighbor


def initialize(network: nn.Module) -> None:
    """Initialize weights as Xavier uniform, times sqrt 2 in residual branches, as in the authors' code; biases to 0."""
    branches = [layer for block in network.modules() if isinstance(block, Block) for layer in block.branch]
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight, math.sqrt(2) if module in branches else 1.0)
            assert module.bias is not None
            nn.init.zeros_(module.bias)


class Block(nn.Module):
    """shortcut(x) + branch(x)."""

    def __init__(self, branch: nn.Sequential, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut = branch, shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.branch(x)


def convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def up(width: int) -> Block:
    """BatchNorm, ReLU, upsampling, convolution, BatchNorm, ReLU, convolution."""
    return Block(
        nn.Sequential(
            *(nn.BatchNorm2d(width), nn.ReLU(), doubled(), convolution(width, width)),
            *(nn.BatchNorm2d(width), nn.ReLU(), convolution(width, width)),
        ),
        nn.Sequential(doubled(), nn.Conv2d(width, width, 1)),
    )


def first(channels: int, width: int) -> Block:
    """D's first block: no ReLU before its first convolution, then downsampling."""
    return Block(
        nn.Sequential(convolution(channels, width), nn.ReLU(), convolution(width, width), nn.AvgPool2d(2)),
        nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(channels, width, 1)),
    )


def down(width: int) -> Block:
    """Twice ReLU and convolution, then downsampling."""
    return Block(
        nn.Sequential(nn.ReLU(), convolution(width, width), nn.ReLU(), convolution(width, width), nn.AvgPool2d(2)),
        nn.Sequential(nn.Conv2d(width, width, 1), nn.AvgPool2d(2)),
    )


def same(width: int) -> Block:
    """Twice ReLU and convolution."""
    return Block(
        nn.Sequential(nn.ReLU(), convolution(width, width), nn.ReLU(), convolution(width, width)), nn.Identity()
    )


class Generator(nn.Module):
    """A linear layer, one block per doubling, BatchNorm, ReLU and a 3x3 convolution; latents to tanh images."""

    memory_format = torch.channels_last  # during training: convolutions are faster

    def __init__(self, latent_size: int, sample_shape: tuple[int, ...], width: int = 256) -> None:
        super().__init__()
        maps = pyramid("sn_resnet", sample_shape)
        smallest = (width, maps.height, maps.width)
        self.layers = nn.Sequential(
            *(nn.Linear(latent_size, math.prod(smallest)), nn.Unflatten(1, smallest)),
            *(up(width) for _ in range(maps.doublings)),
            *(nn.BatchNorm2d(width), nn.ReLU(), convolution(width, sample_shape[0]), nn.Tanh()),
            *maps.crop(),
        )
        initialize(self)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


class Sum(nn.Module):
    """The sum over pixels, (N, channels, height, width) to (N, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum((2, 3))


class Discriminator(nn.Module):
    """Two downsampling blocks, two others, ReLU, a sum over pixels and a linear layer; images to logits."""

    memory_format = torch.channels_last  # during training: convolutions are faster

    def __init__(self, sample_shape: tuple[int, ...], width: int = 128, outputs: int = 1) -> None:
        super().__init__()
        pad = pyramid("sn_resnet", sample_shape, doublings=2).pad()
        blocks = (first(sample_shape[0], width), down(width), same(width), same(width))
        self.layers = nn.Sequential(*pad, *blocks, nn.ReLU(), Sum(), nn.Linear(width, outputs))
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).squeeze(1)
