"""The networks of Goodfellow et al. 2014: sigmoid generators, maxout discriminators, for vectors or 32 x 32 images."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from gan_lightning.errors import UsageError
from gan_lightning.networks.mlp import activation

HIDDEN = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}

SIDE = 10  # of the generator's maps; a transposed 5x5 convolution with stride 3 gives (10 - 1) 3 + 5 = 32 pixels
# number of maps in units of width, kernel size, padding, and pooling window, with stride 2
CONVOLUTIONS = ((1, 8, 4, 4), (1, 8, 3, 4), (6, 5, 3, 2))
# with the side of the last maps: the paper's pooling keeps the windows that cross the border, 33 to 16, 15 to 7,
# 9 to 5; without them the sides are 33 to 15, 14 to 6, 8 to 4
POOLINGS: dict[str, tuple[Callable[..., nn.Module], int]] = {
    "max": (partial(nn.MaxPool2d, ceil_mode=True), 5),
    "mean": (nn.AvgPool2d, 4),
}


class MaxoutLinear(nn.Linear):
    """h_i(x) = max_j (W_ij x + b_ij), (N, inputs) to (N, units) (Goodfellow et al. 2013)."""

    def __init__(self, inputs: int, units: int, pieces: int) -> None:
        super().__init__(inputs, pieces * units)
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).unflatten(1, (self.pieces, -1)).amax(1)


class MaxoutConv2d(nn.Conv2d):
    """h_i(x) = max_j (W_ij * x + b_ij), (N, inputs, H, W) to (N, maps, H', W') (Goodfellow et al. 2013)."""

    def __init__(self, inputs: int, maps: int, pieces: int, kernel_size: int, padding: int = 0) -> None:
        super().__init__(inputs, pieces * maps, kernel_size, padding=padding)
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).unflatten(1, (self.pieces, -1)).amax(1)


class Generator(nn.Module):
    """Linear layers with the activations ``hidden`` and ``output``, (N, latent_size) to (N, *sample_shape).

    Weights are initialized from U(-init_range, init_range), those of the last layer from
    U(-output_range, output_range).
    """

    def __init__(
        self,
        latent_size: int,
        sample_shape: tuple[int, ...],
        widths: Sequence[int],
        hidden: Sequence[str],
        output: str = "tanh",
        init_range: float = 0.05,
        output_range: float = 0.05,
    ) -> None:
        super().__init__()
        self.sample_shape = tuple(sample_shape)
        last = nn.Linear([latent_size, *widths][-1], math.prod(self.sample_shape))
        self.layers = nn.Sequential(*_hidden_layers(latent_size, widths, hidden), last, activation(output))
        _initialize(self, init_range)
        _initialize(last, output_range)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z).unflatten(1, self.sample_shape)


class Discriminator(nn.Module):
    """Maxout layers of ``widths`` units and a linear layer, (N, *sample_shape) to logits (N,), or (N, outputs).

    Dropout keeps pixels with probability ``keep_input`` and units with probability ``keep_hidden``.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        widths: Sequence[int],
        pieces: int = 5,
        keep_input: float = 1.0,
        keep_hidden: float = 1.0,
        init_range: float = 0.005,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        sizes = [math.prod(sample_shape), *widths]
        layers: list[nn.Module] = [_dropout(keep_input)]
        for inputs, units in pairwise(sizes):
            layers += [MaxoutLinear(inputs, units, pieces), _dropout(keep_hidden)]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))
        _initialize(self, init_range)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1)).squeeze(1)


class ConvGenerator(nn.Module):
    """Two linear layers to ``width`` maps and a transposed convolution, (N, latent_size) to (N, channels, 32, 32)."""

    def __init__(
        self,
        latent_size: int,
        sample_shape: tuple[int, ...],
        width: int = 80,
        hidden: Sequence[str] = ("relu", "sigmoid"),
        output: str = "tanh",
        init_range: float = 0.05,
    ) -> None:
        super().__init__()
        channels = _channels(sample_shape)
        self.layers = nn.Sequential(
            *_hidden_layers(latent_size, [width * SIDE**2] * 2, hidden),
            nn.Unflatten(1, (width, SIDE, SIDE)),
            nn.ConvTranspose2d(width, channels, 5, stride=3),
            activation(output),
        )
        _initialize(self, init_range)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


class ConvDiscriminator(nn.Module):
    """Three maxout convolutions with pooling, a maxout and a linear layer, images to logits (N,), or (N, outputs).

    Images are (N, channels, 32, 32). The convolutions have ``width``, ``width`` and 6 ``width`` maps. Dropout keeps
    pixels with probability ``keep_input`` and the inputs of later layers with probability ``keep_hidden``.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        width: int = 32,
        pieces: int = 2,
        units: int = 500,
        unit_pieces: int = 5,
        pooling: str = "max",
        keep_input: float = 1.0,
        keep_hidden: float = 1.0,
        init_range: float = 0.005,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        inputs = _channels(sample_shape)
        pool, side = POOLINGS[pooling]
        layers: list[nn.Module] = [_dropout(keep_input)]
        for widths, kernel_size, padding, window in CONVOLUTIONS:
            convolution = MaxoutConv2d(inputs, widths * width, pieces, kernel_size, padding)
            layers += [convolution, pool(window, stride=2), _dropout(keep_hidden)]
            inputs = widths * width
        layers += [nn.Flatten(), MaxoutLinear(inputs * side**2, units, unit_pieces), _dropout(keep_hidden)]
        self.layers = nn.Sequential(*layers, nn.Linear(units, outputs))
        _initialize(self, init_range)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).squeeze(1)


def _channels(sample_shape: tuple[int, ...]) -> int:
    """The number of channels of 32 x 32 images.

    Raises:
        UsageError: the samples are not 32 x 32 images.
    """
    if len(sample_shape) != 3 or tuple(sample_shape[1:]) != (32, 32):
        raise UsageError(
            f"model=goodfellow_cifar10_conv makes images of 32 x 32 pixels, but the data has samples of shape "
            f"{tuple(sample_shape)}: choose such images (data=cifar10, or data.size=32 for image_folder), or another "
            f"model, such as model=goodfellow_mnist."
        )
    return sample_shape[0]


def _hidden_layers(inputs: int, widths: Sequence[int], hidden: Sequence[str]) -> list[nn.Module]:
    """Linear layers of these widths, each followed by its activation in ``hidden``."""
    if len(hidden) != len(widths) or not set(hidden) <= set(HIDDEN):
        raise UsageError(
            f"model.generator.hidden is {list(hidden)}: give one of {', '.join(HIDDEN)} for each of the {len(widths)} "
            "hidden layers."
        )
    layers: list[nn.Module] = []
    for (before, after), name in zip(pairwise([inputs, *widths]), hidden, strict=True):
        layers += [nn.Linear(before, after), HIDDEN[name]()]
    return layers


def _dropout(keep: float) -> nn.Module:
    return nn.Dropout(1.0 - keep) if keep < 1.0 else nn.Identity()


def _initialize(network: nn.Module, init_range: float) -> None:
    """Initialize weights from U(-init_range, init_range) and biases to 0."""
    for name, parameter in network.named_parameters():
        if name.endswith("weight"):
            nn.init.uniform_(parameter, -init_range, init_range)
        else:
            nn.init.zeros_(parameter)
