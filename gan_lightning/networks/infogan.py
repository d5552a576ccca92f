"""The networks of InfoGAN (Chen et al. 2016, appendix C.1) for images whose sides are multiples of four."""

from torch import Tensor, cat, nn

from gan_lightning.errors import UsageError


def smallest_map(sample_shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of the maps after both strided convolutions.

    Raises:
        UsageError: the samples are no images of such sides.
    """
    if len(sample_shape) != 3 or any(side % 4 for side in sample_shape[1:]):
        raise UsageError(
            f"model=infogan makes images whose sides are multiples of 4, but the data has samples of shape "
            f"{tuple(sample_shape)}: choose another data.size, or another model."
        )
    return sample_shape[1] // 4, sample_shape[2] // 4


class Generator(nn.Module):
    """Two linear layers and two transposed convolutions, each with BatchNorm, (N, latent_size) to tanh images."""

    def __init__(self, latent_size: int, sample_shape: tuple[int, ...], width: int = 64, units: int = 1024) -> None:
        super().__init__()
        height, breadth = smallest_map(sample_shape)
        features = 2 * width * height * breadth
        self.layers = nn.Sequential(
            *(nn.Linear(latent_size, units, bias=False), nn.BatchNorm1d(units), nn.ReLU()),
            *(nn.Linear(units, features, bias=False), nn.BatchNorm1d(features), nn.ReLU()),
            nn.Unflatten(1, (2 * width, height, breadth)),
            *(nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.ConvTranspose2d(width, sample_shape[0], 4, 2, 1), nn.Tanh()),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


class Discriminator(nn.Module):
    """Two strided convolutions and a linear layer; images to logits (N,), or (N, outputs).

    The outputs after the first have a further linear layer of their own, as Q's in the paper.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        width: int = 64,
        units: int = 1024,
        slope: float = 0.1,
        outputs: int = 1,
        output_units: int = 128,
    ) -> None:
        super().__init__()
        height, breadth = smallest_map(sample_shape)
        self.body = nn.Sequential(
            *(nn.Conv2d(sample_shape[0], width, 4, 2, 1), nn.LeakyReLU(slope)),
            *(nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * width), nn.LeakyReLU(slope)),
            nn.Flatten(),
            *(nn.Linear(2 * width * height * breadth, units, bias=False), nn.BatchNorm1d(units), nn.LeakyReLU(slope)),
        )
        self.logit = nn.Linear(units, 1)
        self.others = None
        if outputs > 1:
            self.others = nn.Sequential(
                *(nn.Linear(units, output_units, bias=False), nn.BatchNorm1d(output_units), nn.LeakyReLU(slope)),
                nn.Linear(output_units, outputs - 1),
            )

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        logits = self.logit(features)
        return logits.squeeze(1) if self.others is None else cat([logits, self.others(features)], 1)
