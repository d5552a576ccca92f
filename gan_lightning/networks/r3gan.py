"""The networks of R3GAN (Huang et al. 2024) as published, for any height and width; ``resnet`` has lighter variants.

The defaults of ``conf/model/r3gan.yaml`` are those for CIFAR-10.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d

from gan_lightning.errors import UsageError
from gan_lightning.networks.conditional import ClassEmbedding, Joined
from gan_lightning.networks.pyramid import Pyramid, pyramid
from gan_lightning.networks.resnet import EXPANSION, Block, initialize


class Resampling(nn.Module):
    """Upsampling or downsampling by 2 with the filter [1, 3, 3, 1], [1, 2, 1] between pixels, and zero padding."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", torch.outer(line, line), persistent=False)

    def _each(self, x: Tensor) -> Tensor:
        """The kernel, expanded to all channels."""
        return self.kernel.to(x.dtype).expand(x.shape[1], 1, -1, -1)


class Upsampling(Resampling):
    """(N, channels, H, W) to (N, channels, 2H, 2W)."""

    def forward(self, x: Tensor) -> Tensor:
        return conv_transpose2d(x, 4 * self._each(x), stride=2, padding=1, groups=x.shape[1])


class Downsampling(Resampling):
    """(N, channels, H, W) to (N, channels, H/2, W/2)."""

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self._each(x), stride=2, padding=1, groups=x.shape[1])


def _stage(width: int, cardinality: int, blocks: int) -> list[nn.Module]:
    return [Block(width, cardinality) for _ in range(blocks)]


def _transition(before: int, after: int) -> list[nn.Module]:
    """A transition from one stage's number of channels to the next's."""
    return [] if before == after else [nn.Conv2d(before, after, 1, bias=False)]


def _maps(sample_shape: tuple[int, ...], widths: Sequence[int], cardinalities: Sequence[int]) -> Pyramid:
    """The maps of these stages: the sides of the smallest are the samples', halved once per transition, rounded up.

    Raises:
        UsageError: the images are too small to halve, or the widths cannot be grouped.
    """
    maps = pyramid("r3gan", sample_shape, max(0, len(widths) - 1))
    if not widths or min(sample_shape[1:]) < 2**maps.doublings:
        raise UsageError(
            f"model=r3gan with widths of {len(widths)} stages halves images {maps.doublings} times, but the data has "
            f"samples of shape {tuple(sample_shape)}: give one width per map size down to about 4 pixels, "
            "4 for 32 pixels and 5 for 64."
        )
    if len(cardinalities) != len(widths):
        raise UsageError(
            f"model=r3gan has {len(widths)} widths and {len(cardinalities)} cardinalities: give one for each stage."
        )
    for width, cardinality in zip(widths, cardinalities, strict=True):
        if EXPANSION * width % cardinality:
            raise UsageError(
                f"model=r3gan cannot split {EXPANSION * width} channels, twice a width of {width}, into {cardinality} "
                "equal groups: give a cardinality that divides them."
            )
    return maps


class Generator(nn.Module):
    """A latent-weighted learned map, upsampled stage by stage, (N, latent_size) to (N, *sample_shape), unbounded.

    Stages are ordered from the smallest map; each has ``blocks`` residual blocks. If ``conditional``, a class embedding
    of the same size is concatenated to z.
    """

    memory_format = torch.channels_last  # during training: convolutions are faster

    def __init__(
        self,
        latent_size: int,
        sample_shape: tuple[int, ...],
        widths: Sequence[int],
        cardinalities: Sequence[int],
        blocks: int = 2,
        classes: int = 0,
        conditional: bool = False,
    ) -> None:
        super().__init__()
        maps = _maps(sample_shape, widths, cardinalities)
        self.conditional = conditional
        self.condition = Joined(classes, (latent_size,)) if conditional else None
        self.weights = nn.Linear(latent_size * (1 + conditional), widths[0], bias=False)
        self.maps = nn.Parameter(torch.randn(widths[0], maps.height, maps.width))
        layers = _stage(widths[0], cardinalities[0], blocks)
        for (before, after), cardinality in zip(pairwise(widths), cardinalities[1:], strict=True):
            layers += [*_transition(before, after), Upsampling(), *_stage(after, cardinality, blocks)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], sample_shape[0], 1, bias=False), *maps.crop())
        initialize(self)
        if self.condition is not None:
            nn.init.normal_(self.condition.weight, std=1 / math.sqrt(classes))

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        weights = self.weights(z) if self.condition is None else self.condition(self.weights, z, y)
        return self.layers(weights[:, :, None, None] * self.maps)


class Discriminator(nn.Module):
    """The generator's mirror image, (N, *sample_shape) to logits (N,), or (N, outputs).

    Stages are ordered from the largest map. If ``conditional``, the logit is <v_y, phi(x)>, where v_y is the class
    vector and phi(x) has as many outputs as the last stage has channels (Miyato & Koyama 2018, without psi).
    """

    memory_format = torch.channels_last  # during training: convolutions are faster

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        widths: Sequence[int],
        cardinalities: Sequence[int],
        blocks: int = 2,
        outputs: int = 1,
        classes: int = 0,
        conditional: bool = False,
    ) -> None:
        super().__init__()
        maps = _maps(sample_shape, widths, cardinalities)
        self.conditional = conditional
        features = widths[-1]
        self.condition = ClassEmbedding(classes, features) if conditional else None
        layers = [*maps.pad(), nn.Conv2d(sample_shape[0], widths[0], 1, bias=False)]
        layers += _stage(widths[0], cardinalities[0], blocks)
        for (before, after), cardinality in zip(pairwise(widths), cardinalities[1:], strict=True):
            layers += [Downsampling(), *_transition(before, after), *_stage(after, cardinality, blocks)]
        layers += [nn.Conv2d(features, features, (maps.height, maps.width), groups=features, bias=False), nn.Flatten()]
        logit = features if conditional else 1
        self.layers = nn.Sequential(*layers, nn.Linear(features, logit + outputs - 1, bias=False))
        initialize(self)
        if self.condition is not None:
            nn.init.normal_(self.condition.weight, std=1 / math.sqrt(classes * features))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        outputs = self.layers(x)
        if self.condition is not None:
            v = self.condition(y)
            logit = (v * outputs[:, : v.shape[1]]).sum(1, keepdim=True)
            outputs = torch.cat([logit, outputs[:, v.shape[1] :]], 1)
        return outputs.squeeze(1)
