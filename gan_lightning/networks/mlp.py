"""Multilayer perceptrons: with BatchNorm for images, plain for points."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from gan_lightning.errors import UsageError
from gan_lightning.networks.conditional import EMBEDDING, Conditioning, Joined, LayersByClass, discriminator_condition
from gan_lightning.networks.fourier import FourierFeatures

ACTIVATIONS = {"identity": nn.Identity, "leaky_relu": nn.LeakyReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


def activation(name: str) -> nn.Module:
    """Return the activation of this name.

    Raises:
        UsageError: the name is unknown.
    """
    if name not in ACTIVATIONS:
        raise UsageError(f"model.generator.output is {name!r}: choose one of {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]()


class Generator(nn.Module):
    """Linear(-BatchNorm)-ReLU blocks and a linear layer, (N, latent_size) to (N, *sample_shape).

    ``output`` is the final activation. By default it is tanh for images, which have three dimensions and are in [-1, 1]
    in the data modules, and the identity for points. If ``conditional``, the class embedding is concatenated to z; with
    ``conditional_norm``, BatchNorm is conditional too.
    """

    def __init__(
        self,
        latent_size: int,
        sample_shape: tuple[int, ...],
        widths: Sequence[int],
        batch_norm: bool = True,
        output: str | None = None,
        classes: int = 0,
        conditional: bool = False,
        conditional_norm: bool = False,
    ) -> None:
        super().__init__()
        self.sample_shape = tuple(sample_shape)
        self.conditional = conditional
        self.condition = Joined(classes) if conditional else None
        sizes = [latent_size + EMBEDDING * conditional, *widths]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers.append(nn.Linear(inputs, outputs))
            if batch_norm:
                layers.append(nn.BatchNorm1d(outputs))
            layers.append(nn.ReLU())
        layers.append(nn.Linear(sizes[-1], math.prod(self.sample_shape)))
        output = output or ("tanh" if len(self.sample_shape) == 3 else "identity")
        if output != "identity":
            layers.append(activation(output))
        self.layers = LayersByClass(layers, classes) if conditional and conditional_norm else nn.Sequential(*layers)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        samples = self.layers(z) if self.condition is None else self.condition(self.layers, z, y)
        return samples.unflatten(1, self.sample_shape)


class Discriminator(nn.Module):
    """Linear-LeakyReLU blocks and a linear layer, (N, *sample_shape) to logits (N,), or (N, outputs).

    With ``fourier_scale``, the first layer receives ``FourierFeatures`` of x at this scale. If ``conditional``,
    ``conditioning`` is projection, or joined: the class embedding is concatenated to x.
    """

    samplewise = True

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        widths: Sequence[int],
        slope: float = 0.2,
        outputs: int = 1,
        fourier_scale: float | None = None,
        classes: int = 0,
        conditional: bool = False,
        conditioning: Conditioning = "projection",
    ) -> None:
        super().__init__()
        self.conditional = conditional
        is_joined = conditional and conditioning == "joined"
        inputs = math.prod(sample_shape)
        self.features = None if fourier_scale is None else FourierFeatures(inputs, fourier_scale)
        inputs = inputs if self.features is None else self.features.size
        sizes = [inputs + EMBEDDING * is_joined, *widths]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.LeakyReLU(slope)]
        layers.append(nn.Linear(sizes[-1], outputs))
        self.layers = nn.Sequential(*layers)
        shape = (EMBEDDING,)
        self.condition = discriminator_condition(conditioning, classes, sizes[-1], shape) if conditional else None

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        x = x.flatten(1)
        x = x if self.features is None else self.features(x)
        outputs = self.layers(x) if self.condition is None else self.condition(self.layers, x, y)
        return outputs.squeeze(1)
