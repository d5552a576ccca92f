"""Multilayer perceptrons: with BatchNorm for images, plain for points."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from gan_lightning.errors import UsageError

ACTIVATIONS = {"identity": nn.Identity, "leaky_relu": nn.LeakyReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


def activation(name: str) -> nn.Module:
    """The elementwise function of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in ACTIVATIONS:
        raise UsageError(f"model.generator.output is {name!r}: choose one of {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]()


class Generator(nn.Module):
    """Linear(-BatchNorm)-ReLU blocks and a linear layer, (N, latent_size) to (N, *sample_shape).

    ``output`` is the function at the end; where it is not given, images, of three dimensions, end in tanh, because
    data modules give them in [-1, 1], and points end as they are.
    """

    def __init__(
        self,
        latent_size: int,
        sample_shape: tuple[int, ...],
        widths: Sequence[int],
        batch_norm: bool = True,
        output: str | None = None,
    ) -> None:
        super().__init__()
        self.sample_shape = tuple(sample_shape)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([latent_size, *widths]):
            layers.append(nn.Linear(inputs, outputs))
            if batch_norm:
                layers.append(nn.BatchNorm1d(outputs))
            layers.append(nn.ReLU())
        layers.append(nn.Linear([latent_size, *widths][-1], math.prod(self.sample_shape)))
        output = output or ("tanh" if len(self.sample_shape) == 3 else "identity")
        if output != "identity":
            layers.append(activation(output))
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z).unflatten(1, self.sample_shape)


class Discriminator(nn.Module):
    """Linear-LeakyReLU blocks and a linear layer, (N, *sample_shape) to logits (N,), or (N, outputs)."""

    def __init__(
        self, sample_shape: tuple[int, ...], widths: Sequence[int], slope: float = 0.2, outputs: int = 1
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise([math.prod(sample_shape), *widths]):
            layers += [nn.Linear(before, after), nn.LeakyReLU(slope)]
        layers.append(nn.Linear([math.prod(sample_shape), *widths][-1], outputs))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1)).squeeze(1)
