"""The networks of pix2pix (Isola et al. 2017) for images of any height and width: U-Net and PatchGAN."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from gan_lightning.networks.pyramid import growing, pyramid

MOST = 8  # largest multiple of the width, in channels, as in the paper


class Generator(nn.Module):
    """A U-Net from images y to tanh images; z (N, latent_size) and y (N, *sample_shape) to (N, *sample_shape).

    Skip connections pass maps from the downsampling to the upsampling layers (Ronneberger et al. 2015). z is not used:
    with an L1 term, G learns to ignore it (Isola et al. 2017, section 3.1).
    """

    conditional = True
    memory_format = torch.channels_last  # during training: convolutions are faster

    def __init__(self, sample_shape: tuple[int, ...], width: int = 32) -> None:
        super().__init__()
        maps = pyramid("pix2pix", sample_shape)
        widths = growing(width, maps.doublings, MOST)
        self.pad, self.crop = nn.Sequential(*maps.pad()), nn.Sequential(*maps.crop())
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 4, 2, 1), nn.BatchNorm2d(after), nn.LeakyReLU(0.2))
            for before, after in pairwise([sample_shape[0], *widths])
        )
        self.middle = nn.Sequential(
            nn.Conv2d(widths[-1], widths[-1], 3, padding=1), nn.BatchNorm2d(widths[-1]), nn.ReLU()
        )
        self.up = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(2 * before, after, 4, 2, 1), nn.BatchNorm2d(after), nn.ReLU())
            for before, after in pairwise([*reversed(widths), width])
        )
        self.last = nn.Sequential(nn.Conv2d(width + sample_shape[0], sample_shape[0], 3, padding=1), nn.Tanh())

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        maps = [self.pad(y)]
        for layer in self.down:
            maps.append(layer(maps[-1]))
        x = self.middle(maps[-1])
        for layer in self.up:
            x = layer(torch.cat([x, maps.pop()], 1))
        return self.crop(self.last(torch.cat([x, maps.pop()], 1)))


class Discriminator(nn.Module):
    """PatchGAN: a logit for each patch of the pair (x, y), each (N, *sample_shape), to (N * patches,)."""

    conditional = True
    memory_format = torch.channels_last  # during training: convolutions are faster

    def __init__(self, sample_shape: tuple[int, ...], width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *pyramid("pix2pix", sample_shape, doublings=2).pad(),
            nn.Conv2d(2 * sample_shape[0], width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 3, padding=1),
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.layers(torch.cat([x, y], 1)).flatten()
