"""Class conditioning of networks: concatenation to the input, conditional BatchNorm, or projection."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from gan_lightning.errors import UsageError

Conditioning = Literal["projection", "joined"]
EMBEDDING = 16  # size of a class embedding that is concatenated to the input


class ClassEmbedding(nn.Embedding):
    """e(y), a learned vector for each class, (N,) to (N, size).

    y may also be class weights (N, classes), for weighted sums of the vectors that interpolate between classes.
    """

    def __init__(self, classes: int, size: int) -> None:
        if classes < 1:
            raise UsageError(
                "model.conditional is true, but the data has no classes: choose data with classes, such as data=mnist, "
                "data=ring, or a folder of images with a folder for each class; or set model.conditional=false."
            )
        super().__init__(classes, size)

    def forward(self, y: Tensor) -> Tensor:
        return y @ self.weight if y.is_floating_point() else super().forward(y)


class Joined(ClassEmbedding):
    """f([x, e(y)]), the class vector concatenated to x as features or as a channel (Mirza & Osindero 2014).

    f denotes the layers of a network. With shape (size,), x becomes (N, features + size); with shape (1, H, W),
    (N, channels, H, W) becomes (N, channels + 1, H, W).
    """

    def __init__(self, classes: int, shape: tuple[int, ...] = (EMBEDDING,)) -> None:
        super().__init__(classes, math.prod(shape))
        self.shape = shape

    def forward(self, layers: nn.Module, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        joined = torch.cat([x, super().forward(y).unflatten(1, self.shape)], 1)
        return layers(joined, y) if isinstance(layers, LayersByClass) else layers(joined)


class Projection(ClassEmbedding):
    """psi(phi(x)) + <v_y, phi(x)>, where psi is a network's last layer (Miyato & Koyama 2018, equation 3).

    v is initialized to 0, so D starts unconditional. With outputs (N, outputs), the first is the logit.
    """

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)

    def forward(self, layers: nn.Sequential, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        *body, last = layers
        for layer in body:
            x = layer(x)
        outputs, projected = last(x).flatten(1), (super().forward(y) * x.flatten(1)).sum(1, keepdim=True)
        return torch.cat([outputs[:, :1] + projected, outputs[:, 1:]], 1)


def discriminator_condition(
    conditioning: Conditioning, classes: int, features: int, shape: tuple[int, ...]
) -> Joined | Projection:
    """D's conditioning: projection of its last layer's ``features``, or concatenation to x in this ``shape``."""
    return Projection(classes, features) if conditioning == "projection" else Joined(classes, shape)


class ConditionalBatchNorm(nn.Module):
    """gamma_y (x - mean) / sqrt(var + eps) + beta_y, (N, channels, ...), with mean and variance over all classes.

    (Dumoulin et al. 2017, equation 5; de Vries et al. 2017.) gamma is initialized to 1 and beta to 0.
    """

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d, classes: int) -> None:
        super().__init__()
        self.norm = type(norm)(norm.num_features, affine=False)
        self.scale = ClassEmbedding(classes, norm.num_features)
        self.shift = ClassEmbedding(classes, norm.num_features)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        channels = (-1, *[1] * (x.dim() - 2))
        return self.scale(y).unflatten(1, channels) * self.norm(x) + self.shift(y).unflatten(1, channels)


class LayersByClass(nn.Sequential):
    """A sequence of layers in which each BatchNorm is replaced by a ConditionalBatchNorm.

    Raises:
        UsageError: there is no BatchNorm.
    """

    def __init__(self, layers: Sequence[nn.Module], classes: int) -> None:
        kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
        if not any(isinstance(layer, kinds) for layer in layers):
            raise UsageError(
                "model.generator.conditional_norm is true, but the generator has no BatchNorm: leave it out."
            )
        super().__init__(
            *(ConditionalBatchNorm(layer, classes) if isinstance(layer, kinds) else layer for layer in layers)
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, y) if isinstance(layer, ConditionalBatchNorm) else layer(x)
        return x
