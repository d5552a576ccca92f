"""Networks of 1-d convolutions for sequences (steps, channels)."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from gan_lightning.errors import UsageError

KERNEL = 5  # steps


def lengths_of(sample_shape: tuple[int, ...]) -> list[int]:
    """A quarter, a half and all of the steps, rounded up.

    Raises:
        UsageError: samples are not sequences.
    """
    if len(sample_shape) != 2:
        raise UsageError(
            f"model=sequence makes sequences (steps, channels), but samples have shape {tuple(sample_shape)}: choose "
            "data=sines, arrays (N, steps, channels) by data=array data.kind=sequences, or another model."
        )
    return [-(-sample_shape[0] // 4), -(-sample_shape[0] // 2), sample_shape[0]]


class Generator(nn.Module):
    """A linear layer, then twice upsampling and a convolution, (N, latent_size) to (N, steps, channels)."""

    def __init__(self, latent_size: int, sample_shape: tuple[int, ...], width: int = 64) -> None:
        super().__init__()
        self.first, *self.lengths = lengths_of(sample_shape)
        self.linear = nn.Linear(latent_size, 2 * width * self.first)
        sizes = pairwise([2 * width, 2 * width, width])
        self.convolutions = nn.ModuleList(nn.Conv1d(a, b, KERNEL, padding="same") for a, b in sizes)
        self.last = nn.Conv1d(width, sample_shape[1], KERNEL, padding="same")

    def forward(self, z: Tensor) -> Tensor:
        x = torch.relu(self.linear(z)).unflatten(1, (-1, self.first))
        for length, convolution in zip(self.lengths, self.convolutions, strict=True):
            x = torch.relu(convolution(interpolate(x, size=length)))
        return self.last(x).transpose(1, 2)


class Discriminator(nn.Module):
    """Two strided convolutions and a linear layer, (N, steps, channels) to logits (N,), or (N, outputs)."""

    def __init__(self, sample_shape: tuple[int, ...], width: int = 64, slope: float = 0.2, outputs: int = 1) -> None:
        super().__init__()
        last = lengths_of(sample_shape)[0]
        layers: list[nn.Module] = []
        for inputs, maps in pairwise([sample_shape[1], width, 2 * width]):
            layers += [nn.Conv1d(inputs, maps, KERNEL, stride=2, padding=KERNEL // 2), nn.LeakyReLU(slope)]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(2 * width * last, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.transpose(1, 2)).squeeze(1)
