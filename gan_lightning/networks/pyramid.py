"""How convolutional networks come from a small map to images of any height and width, and back."""

from typing import NamedTuple

from torch import nn

from gan_lightning.errors import UsageError

SMALLEST = 4  # pixels: the shorter side of the smallest map has these to twice as many


class Pyramid(NamedTuple):
    """The smallest map, the doublings from there, and by how much the largest map exceeds the images.

    G crops its largest map to the image at the centre; D pads the image with zeros to that size.
    """

    height: int
    width: int
    doublings: int
    margins: tuple[int, int, int, int]  # left, right, above, below

    def crop(self) -> list[nn.Module]:
        """The layer after G's largest map, if any is needed."""
        left, right, above, below = self.margins
        return [nn.ZeroPad2d((-left, -right, -above, -below))] if any(self.margins) else []

    def pad(self) -> list[nn.Module]:
        """The layer before D's largest map, if any is needed."""
        return [nn.ZeroPad2d(self.margins)] if any(self.margins) else []


def pyramid(model: str, sample_shape: tuple[int, ...], doublings: int | None = None) -> Pyramid:
    """The maps of images, (channels, height, width): at least one doubling, or as many as are given.

    Raises:
        UsageError: the samples are no images.
    """
    if len(sample_shape) != 3:
        raise UsageError(
            f"model={model} makes images, but the data has samples of shape {tuple(sample_shape)}: choose data with "
            "images, (channels, height, width), or another model, such as model=mlp."
        )
    rows, columns = sample_shape[1:]
    if doublings is None:
        doublings = max(1, (min(rows, columns) // SMALLEST).bit_length() - 1)
    factor = 2**doublings
    more_rows, more_columns = -rows % factor, -columns % factor
    margins = (more_columns // 2, -(-more_columns // 2), more_rows // 2, -(-more_rows // 2))
    return Pyramid((rows + more_rows) // factor, (columns + more_columns) // factor, doublings, margins)


def growing(width: int, maps: int, most: int) -> list[int]:
    """The channels of so many sizes of map, from the largest: each halving doubles them, up to ``most`` widths."""
    return [width * min(2**i, most) for i in range(maps)]
