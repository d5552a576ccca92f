"""One linear layer each: the smallest generator and discriminator."""

import math

from torch import Tensor, nn

from gan_lightning.networks.mlp import activation


class Generator(nn.Module):
    """G(z) = f(W z + b), (N, latent_size) to (N, *sample_shape); f is the identity, leaky_relu, sigmoid or tanh."""

    def __init__(self, latent_size: int, sample_shape: tuple[int, ...], output: str = "identity") -> None:
        super().__init__()
        self.sample_shape = tuple(sample_shape)
        self.layer = nn.Linear(latent_size, math.prod(self.sample_shape))
        self.output = activation(output)

    def forward(self, z: Tensor) -> Tensor:
        return self.output(self.layer(z)).unflatten(1, self.sample_shape)


class Discriminator(nn.Module):
    """l(x) = w x + b, logistic regression, (N, *sample_shape) to logits (N,), or (N, outputs)."""

    samplewise = True

    def __init__(self, sample_shape: tuple[int, ...], outputs: int = 1) -> None:
        super().__init__()
        self.layer = nn.Linear(math.prod(sample_shape), outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1)).squeeze(1)
