"""Deep convolutional GAN (Radford et al. 2015) for images of any height, width and number of channels."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from gan_lightning.networks.conditional import EMBEDDING, Conditioning, Joined, LayersByClass, discriminator_condition
from gan_lightning.networks.pyramid import growing, pyramid

MOST = 8  # largest multiple of the width, in channels, as in the paper for 64 pixels


def _norm(channels: int, batch_norm: bool) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels)] if batch_norm else []


def _initialize(network: nn.Module) -> None:
    """Initialize weights from N(0, 0.02) and BatchNorm scales from N(1, 0.02) (Radford et al. 2015, section 4).

    Without BatchNorm, weights this small are not rescaled, so PyTorch's initialization is kept.
    """
    has_norm = any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and has_norm:
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)


class Generator(nn.Module):
    """Transposed convolutions, BatchNorm and ReLU from z to tanh images, (N, latent_size) to (N, *sample_shape).

    If ``conditional``, the class embedding is concatenated to z; with ``conditional_norm``, BatchNorm is conditional
    too.
    """

    memory_format = torch.channels_last  # during training: convolutions are faster

    def __init__(
        self,
        latent_size: int,
        sample_shape: tuple[int, ...],
        width: int = 64,
        classes: int = 0,
        conditional: bool = False,
        conditional_norm: bool = False,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        self.conditional = conditional
        self.condition = Joined(classes, (EMBEDDING, 1, 1)) if conditional else None
        latent_size += EMBEDDING * conditional
        maps = pyramid("dcgan", sample_shape)
        widths = growing(width, maps.doublings, MOST)[::-1]
        smallest, bias = (maps.height, maps.width), not batch_norm
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent_size, widths[0], smallest, bias=bias)]
        for inputs, outputs in pairwise(widths):
            layers += [*_norm(inputs, batch_norm), nn.ReLU(), nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=bias)]
        layers += [*_norm(width, batch_norm), nn.ReLU(), nn.ConvTranspose2d(width, sample_shape[0], 4, 2, 1), nn.Tanh()]
        layers += maps.crop()
        self.layers = LayersByClass(layers, classes) if conditional and conditional_norm else nn.Sequential(*layers)
        _initialize(self)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        z = z[:, :, None, None]
        return self.layers(z) if self.condition is None else self.condition(self.layers, z, y)


class Discriminator(nn.Module):
    """Strided convolutions, BatchNorm in all but the first, LeakyReLU(0.2); images to logits (N,), or (N, outputs).

    If ``conditional``, ``conditioning`` is projection, or joined: the class is concatenated to x as a channel.
    """

    memory_format = torch.channels_last  # during training: convolutions are faster

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        width: int = 64,
        outputs: int = 1,
        classes: int = 0,
        conditional: bool = False,
        conditioning: Conditioning = "projection",
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        self.conditional = conditional
        is_joined = conditional and conditioning == "joined"
        maps = pyramid("dcgan", sample_shape)
        widths = growing(width, maps.doublings, MOST)
        layers = [*maps.pad(), nn.Conv2d(sample_shape[0] + is_joined, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for before, after in pairwise(widths):
            convolution = nn.Conv2d(before, after, 4, 2, 1, bias=not batch_norm)
            layers += [convolution, *_norm(after, batch_norm), nn.LeakyReLU(0.2)]
        layers.append(nn.Conv2d(widths[-1], outputs, (maps.height, maps.width)))
        self.layers = nn.Sequential(*layers)
        features, shape = widths[-1] * maps.height * maps.width, (1, *sample_shape[1:])
        self.condition = discriminator_condition(conditioning, classes, features, shape) if conditional else None
        _initialize(self)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        outputs = self.layers(x) if self.condition is None else self.condition(self.layers, x, y)
        return outputs.flatten(1).squeeze(1)
