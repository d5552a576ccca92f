"""Map sizes of convolutional networks, from a small map to images of any height and width."""

from typing import NamedTuple

from torch import nn

from gan_lightning.errors import UsageError

SMALLEST = 4  # pixels; the shorter side of the smallest map is from this to twice as long


class Pyramid(NamedTuple):
    """The smallest map, the number of doublings, and the margins of the largest map around the images.

    G center-crops its largest map to the image; D zero-pads the image to that size.
    """

    height: int
    width: int
    doublings: int
    margins: tuple[int, int, int, int]  # left, right, above, below

    def crop(self) -> list[nn.Module]:
        """The cropping layer after G's largest map, if needed."""
        left, right, above, below = self.margins
        return [nn.ZeroPad2d((-left, -right, -above, -below))] if any(self.margins) else []

    def pad(self) -> list[nn.Module]:
        """The padding layer before D's largest map, if needed."""
        return [nn.ZeroPad2d(self.margins)] if any(self.margins) else []


def pyramid(model: str, sample_shape: tuple[int, ...], doublings: int | None = None) -> Pyramid:
    """The maps for images (channels, height, width): at least one doubling, or the given number.

    Raises:
        UsageError: the samples are not images.
    """
    if len(sample_shape) != 3:
        raise UsageError(
            f"model={model} makes images, but the data has samples of shape {tuple(sample_shape)}: choose data with "
            "images (channels, height, width), or another model, such as model=mlp."
        )
    rows, columns = sample_shape[1:]
    if doublings is None:
        doublings = max(1, (min(rows, columns) // SMALLEST).bit_length() - 1)
    factor = 2**doublings
    more_rows, more_columns = -rows % factor, -columns % factor
    margins = (more_columns // 2, -(-more_columns // 2), more_rows // 2, -(-more_rows // 2))
    return Pyramid((rows + more_rows) // factor, (columns + more_columns) // factor, doublings, margins)


def growing(width: int, maps: int, most: int) -> list[int]:
    """The channels of ``maps`` map sizes, largest map first: each halving doubles them, up to ``most * width``."""
    return [width * min(2**i, most) for i in range(maps)]
