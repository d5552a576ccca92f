"""InfoGAN's networks as Lucic et al. 2018 compared losses with them, after github.com/google/compare_gan, v1.0.

That code also has biases before BatchNorm, which subtracts them again, and can leave out BatchNorm in D.
"""

from torch import nn

from gan_lightning.networks import infogan

SLOPE, EPS, MOMENTUM, STD = 0.2, 1e-3, 1e-3, 0.02


class Generator(infogan.Generator):
    """InfoGAN's generator with leaky ReLU and a sigmoid, (N, latent_size) to images in [0, 1]."""

    model = "lucic"

    def __init__(self, latent_size: int, sample_shape: tuple[int, ...], width: int = 64, units: int = 1024) -> None:
        super().__init__(latent_size, sample_shape, width, units, slope=SLOPE, output="sigmoid")
        _prepare(self)


class Discriminator(infogan.Discriminator):
    """InfoGAN's discriminator, images to logits (N,), or (N, outputs)."""

    model = "lucic"

    def __init__(self, sample_shape: tuple[int, ...], width: int = 64, units: int = 1024, outputs: int = 1) -> None:
        super().__init__(sample_shape, width, units, SLOPE, outputs)
        _prepare(self)


def _prepare(network: nn.Module) -> None:
    """Set BatchNorm's options, and initialize weights from N(0, 0.02), D's convolutions within 0.04, biases to 0."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eps, module.momentum = EPS, MOMENTUM
        elif isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            if isinstance(module, nn.Conv2d):
                nn.init.trunc_normal_(module.weight, 0.0, STD, -2 * STD, 2 * STD)
            else:
                nn.init.normal_(module.weight, 0.0, STD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
