"""How convolutional networks come from a small map to an image, and back."""

from gan_lightning.errors import UsageError

# side of the smallest feature map, number of doublings
PYRAMIDS = {28: (7, 2), 32: (4, 3), 64: (4, 4)}


def pyramid(model: str, sample_shape: tuple[int, ...]) -> tuple[int, int]:
    """The smallest side and the doublings from there to the images.

    Raises:
        UsageError: the shape is not (channels, n, n) with n among 28, 32 and 64.
    """
    image = len(sample_shape) == 3 and sample_shape[1] == sample_shape[2]
    if not image or sample_shape[1] not in PYRAMIDS:
        raise UsageError(
            f"model={model} makes images of 28, 32 or 64 pixels, but the data has samples of "
            f"shape {tuple(sample_shape)}: choose a data set of such images (data.size for image_folder), or another "
            "model."
        )
    return PYRAMIDS[sample_shape[1]]
