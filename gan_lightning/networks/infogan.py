"""The networks of InfoGAN (Chen et al. 2016, appendix C.1) for images of any height and width."""

from torch import Tensor, cat, nn

from gan_lightning.networks.conditional import EMBEDDING, Conditioning, Joined, LayersByClass, discriminator_condition
from gan_lightning.networks.mlp import activation
from gan_lightning.networks.pyramid import pyramid

DOUBLINGS = 2


class Generator(nn.Module):
    """Two linear layers and two transposed convolutions, BatchNorm in all but the last, from z to images.

    The activations are leaky ReLU of this ``slope`` and in the end ``output``, tanh or sigmoid. If ``conditional``, the
    class embedding is concatenated to z; with ``conditional_norm``, BatchNorm is conditional too.
    """

    model = "infogan"  # as errors name it

    def __init__(
        self,
        latent_size: int,
        sample_shape: tuple[int, ...],
        width: int = 64,
        units: int = 1024,
        slope: float = 0.0,
        output: str = "tanh",
        classes: int = 0,
        conditional: bool = False,
        conditional_norm: bool = False,
    ) -> None:
        super().__init__()
        self.conditional = conditional
        self.condition = Joined(classes) if conditional else None
        latent_size += EMBEDDING * conditional
        maps = pyramid(self.model, sample_shape, DOUBLINGS)
        features = 2 * width * maps.height * maps.width
        layers = [
            *(nn.Linear(latent_size, units, bias=False), nn.BatchNorm1d(units), rectifier(slope)),
            *(nn.Linear(units, features, bias=False), nn.BatchNorm1d(features), rectifier(slope)),
            nn.Unflatten(1, (2 * width, maps.height, maps.width)),
            *(nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), rectifier(slope)),
            *(nn.ConvTranspose2d(width, sample_shape[0], 4, 2, 1), activation(output)),
            *maps.crop(),
        ]
        self.layers = LayersByClass(layers, classes) if conditional and conditional_norm else nn.Sequential(*layers)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.layers(z) if self.condition is None else self.condition(self.layers, z, y)


class Discriminator(nn.Module):
    """Two strided convolutions and a linear layer; images to logits (N,), or (N, outputs).

    The outputs after the first have an extra hidden layer, like Q in the paper. If ``conditional``, ``conditioning`` is
    projection, or joined: the class is concatenated to x as a channel.
    """

    model = "infogan"

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        width: int = 64,
        units: int = 1024,
        slope: float = 0.1,
        outputs: int = 1,
        output_units: int = 128,
        classes: int = 0,
        conditional: bool = False,
        conditioning: Conditioning = "projection",
    ) -> None:
        super().__init__()
        self.conditional = conditional
        is_joined = conditional and conditioning == "joined"
        maps = pyramid(self.model, sample_shape, DOUBLINGS)
        features = 2 * width * maps.height * maps.width
        self.layers = nn.Sequential(
            *maps.pad(),
            *(nn.Conv2d(sample_shape[0] + is_joined, width, 4, 2, 1), nn.LeakyReLU(slope)),
            *(nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * width), nn.LeakyReLU(slope)),
            nn.Flatten(),
            *(nn.Linear(features, units, bias=False), nn.BatchNorm1d(units), nn.LeakyReLU(slope)),
            Outputs(units, outputs, output_units, slope),
        )
        shape = (1, *sample_shape[1:])
        self.condition = discriminator_condition(conditioning, classes, units, shape) if conditional else None

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        outputs = self.layers(x) if self.condition is None else self.condition(self.layers, x, y)
        return outputs.squeeze(1)


def rectifier(slope: float) -> nn.Module:
    """Leaky ReLU, or ReLU for a slope of 0."""
    return nn.LeakyReLU(slope) if slope else nn.ReLU()


class Outputs(nn.Module):
    """A linear logit, and the other outputs through a hidden layer, (N, features) to (N, outputs)."""

    def __init__(self, features: int, outputs: int, units: int, slope: float) -> None:
        super().__init__()
        self.logit = nn.Linear(features, 1)
        self.others = None
        if outputs > 1:
            norm = nn.BatchNorm1d(units)
            hidden = (nn.Linear(features, units, bias=False), norm, nn.LeakyReLU(slope))
            self.others = nn.Sequential(*hidden, nn.Linear(units, outputs - 1))

    def forward(self, features: Tensor) -> Tensor:
        logit = self.logit(features)
        return logit if self.others is None else cat([logit, self.others(features)], 1)
