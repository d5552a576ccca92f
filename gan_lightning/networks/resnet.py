"""Residual networks without normalization for images of any height and width (Huang et al. 2024, R3GAN)."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from gan_lightning.networks.conditional import EMBEDDING, Conditioning, Joined, discriminator_condition
from gan_lightning.networks.pyramid import growing, pyramid

EXPANSION = 2
GROUP = 16  # channels
SLOPE = 0.2
MOST = 16  # largest multiple of the width, in channels, reached at 64 pixels


class Block(nn.Module):
    """x + f(x), where f is a 1x1, a grouped 3x3 and a 1x1 convolution with twice the channels and LeakyReLU between.

    The 3x3 convolution has ``cardinality`` groups, by default of 16 channels each.
    """

    def __init__(self, channels: int, cardinality: int | None = None) -> None:
        super().__init__()
        hidden = EXPANSION * channels
        groups = cardinality or hidden // math.gcd(hidden, GROUP)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=groups),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(hidden, channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def initialize(network: nn.Module) -> None:
    """Initialize weights to keep the variance; in each of L blocks, divide the first two by L^(1/4), set the last to 0.

    (Zhang et al. 2019, Fixup.)
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    blocks = [module for module in network.modules() if isinstance(module, Block)]
    for block in blocks:
        first, second, last = (layer.weight for layer in block.layers if isinstance(layer, nn.Conv2d))
        for weight in (first, second):
            nn.init.kaiming_normal_(weight, SLOPE)
            with torch.no_grad():
                weight /= len(blocks) ** 0.25
        nn.init.zeros_(last)


class Generator(nn.Module):
    """A latent-weighted learned map, upsampled bilinearly, (N, latent_size) to tanh images.

    There are ``blocks`` residual blocks per map size. The largest maps have ``width`` channels; each halving doubles
    them, up to 16 times. If ``conditional``, the class embedding is concatenated to z.
    """

    memory_format = torch.channels_last  # during training: convolutions are faster

    def __init__(
        self,
        latent_size: int,
        sample_shape: tuple[int, ...],
        width: int = 32,
        blocks: int = 1,
        classes: int = 0,
        conditional: bool = False,
    ) -> None:
        super().__init__()
        self.conditional = conditional
        self.condition = Joined(classes) if conditional else None
        maps = pyramid("resnet", sample_shape)
        widths = growing(width, maps.doublings + 1, MOST)[::-1]
        self.weights = nn.Linear(latent_size + EMBEDDING * conditional, widths[0], bias=False)
        self.maps = nn.Parameter(torch.randn(widths[0], maps.height, maps.width))
        layers: list[nn.Module] = [Block(widths[0]) for _ in range(blocks)]
        for inputs, outputs in pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 1, bias=False), nn.Upsample(scale_factor=2, mode="bilinear")]
            layers += [Block(outputs) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, sample_shape[0], 1), nn.Tanh(), *maps.crop())
        initialize(self)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        weights = self.weights(z) if self.condition is None else self.condition(self.weights, z, y)
        return self.layers(weights[:, :, None, None] * self.maps)


class Discriminator(nn.Module):
    """The generator's mirror image, with average pooling, (N, *sample_shape) to logits (N,), or (N, outputs).

    If ``conditional``, ``conditioning`` is projection, or joined: the class is concatenated to x as a channel.
    """

    memory_format = torch.channels_last  # during training: convolutions are faster

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        width: int = 32,
        blocks: int = 1,
        outputs: int = 1,
        classes: int = 0,
        conditional: bool = False,
        conditioning: Conditioning = "projection",
    ) -> None:
        super().__init__()
        self.conditional = conditional
        is_joined = conditional and conditioning == "joined"
        maps = pyramid("resnet", sample_shape)
        widths = growing(width, maps.doublings + 1, MOST)
        layers = [*maps.pad(), nn.Conv2d(sample_shape[0] + is_joined, width, 1)]
        layers += [Block(width) for _ in range(blocks)]
        for before, after in pairwise(widths):
            layers += [nn.AvgPool2d(2), nn.Conv2d(before, after, 1, bias=False)]
            layers += [Block(after) for _ in range(blocks)]
        smallest = (maps.height, maps.width)
        layers.append(nn.Conv2d(widths[-1], widths[-1], smallest, groups=widths[-1], bias=False))
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1], outputs))
        shape = (1, *sample_shape[1:])
        self.condition = discriminator_condition(conditioning, classes, widths[-1], shape) if conditional else None
        initialize(self)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        outputs = self.layers(x) if self.condition is None else self.condition(self.layers, x, y)
        return outputs.squeeze(1)
