"""One image file as bytes: whatever its mode, metadata and shape, it is read as it looks, or refused by name."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, PngImagePlugin, TiffImagePlugin
from torch import Tensor

from gan_lightning.errors import UsageError

BACKGROUND = 255  # white, which shows through what is transparent
LONGEST = 8  # times the shorter side: a longer image's ends, which the crop leaves out, are cut off before it is scaled
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SKIP = ", or pass over such files with data.unreadable=skip"
STRIP = 2**20  # pixels that are converted at once: the whole image takes many times its own bytes on the way
PHOTOMETRIC, BITS_PER_SAMPLE = 262, 258  # TIFF's tags
SPREAD = {"L;2": 85, "L;4": 17}  # Pillow spreads these PNG samples over [0, 255], but not their transparent value


def read_image(path: Path, sample_shape: tuple[int, ...]) -> Tensor:
    """One image file as uint8 (channels, size, size), scaled by its shorter side and cropped at the centre.

    Grey of 16 bits is value/257, rounded, other depths likewise, colour of 16 bits its upper byte, and a float in
    [0, 1] is 255 value, rounded. What is transparent shows white.

    Raises:
        UsageError: the file is not an image that can be read.
    """
    channels, size, _ = sample_shape
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata, which does not matter here
            image = decoded(path)
            mode = "L" if channels == 1 else "RGB"
            image = image if image.mode == mode else image.convert(mode)
            data = bytearray(scaled(image, size).tobytes())
    except Exception as error:  # Pillow raises whatever a decoder meets, from struct.error to MemoryError
        raise UsageError(f"{named(path)} is not a readable image ({_reason(error)}): remove it{SKIP}.") from error
    return torch.frombuffer(data, dtype=torch.uint8).view(size, size, channels).permute(2, 0, 1).contiguous()


def named(path: Path | str) -> str:
    """A path in characters that can be printed on one line and written in UTF-8, whatever its bytes are."""
    text = str(path)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def decoded(path: Path) -> Image.Image:
    """An image upright, of eight bits a channel, without transparency."""
    # not by its name, by which Pillow maps a TIFF into memory with the sides swapped of one that lies on its side
    with path.open("rb") as stream, Image.open(stream) as file:
        layout = str(file.tile[0][3]) if isinstance(file, PngImagePlugin.PngImageFile) and file.tile else ""
        image = middle(upright(file))
        if image.mode.startswith("I") or image.mode == "F":
            return _eight_bits(image, file)
        return _opaque(image, layout)


def upright(file: Image.Image) -> Image.Image:
    """A file's image, loaded and turned as its metadata says; that may be odd where the pixels are fine."""
    if isinstance(file, TiffImagePlugin.TiffImageFile):
        orientation = _orientation(file)
        file.load_end = lambda: None  # type: ignore[method-assign]  # which would read all metadata, and turn
        file.load()
    else:
        file.load()
        orientation = _orientation(file)
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return file if turn is None else file.transpose(turn)


def upright_size(path: Path) -> tuple[int, int]:
    """Width and height of a readable image as it is looked at."""
    with warnings.catch_warnings(), path.open("rb") as stream, Image.open(stream) as file:
        warnings.simplefilter("ignore")  # of metadata, as above
        return file.size[::-1] if _orientation(file) in range(5, 9) else file.size


def _orientation(file: Image.Image) -> object:
    try:
        tags = getattr(file, "tag_v2", {})
        own = tags.get(ExifTags.Base.Orientation)
        return file.getexif().get(ExifTags.Base.Orientation) if own is None else own
    except Exception:  # of a decoder of metadata
        return None


def middle(image: Image.Image) -> Image.Image:
    """The image without the ends that make it longer than ``LONGEST``; its centre stays where it is."""
    longest = LONGEST * min(image.size)
    left, top = (max(0, (side - longest) // 2) for side in image.size)
    return image.crop((left, top, image.width - left, image.height - top)) if left or top else image


def scaled(image: Image.Image, size: int) -> Image.Image:
    """The image scaled by its shorter side, and of that the square at the centre."""
    width, height = (max(size, round(side * size / min(image.size))) for side in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The image's rows, some at a time, each with its top."""
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _converted(image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """The image of what is made of each strip, which has that mode."""
    whole = Image.new(mode, image.size)
    for top, strip in _strips(image):
        whole.paste(convert(strip), (0, top))
    return whole


def _eight_bits(image: Image.Image, file: Image.Image) -> Image.Image:
    """Grey values of more bits, or floats in [0, 1], reduced to bytes."""
    tags = getattr(file, "tag_v2", {})
    largest = _largest(file, tags)
    ends = np.array([(values.min(), values.max()) for values in (np.asarray(strip) for _, strip in _strips(image))])
    low, high = ends.min(), ends.max()
    if not (low >= 0 and high <= largest):  # false of NaN, too
        raise ValueError(f"mode {image.mode} with values from {low:g} to {high:g}, not 0 to {largest}")
    transparent = file.info.get("transparency")

    def reduced(strip: Image.Image) -> Image.Image:
        values = np.asarray(strip, dtype=np.float64)
        grey = np.rint(values * (255 / largest))
        if tags.get(PHOTOMETRIC) == 0:  # white is zero
            grey = 255 - grey
        if transparent is not None:
            grey[values == transparent] = BACKGROUND
        return Image.fromarray(grey.astype(np.uint8))

    return _converted(image, "L", reduced)


def _largest(file: Image.Image, tags: dict[int, tuple[int, ...]]) -> int:
    """The value that is white in a grey image of more than eight bits."""
    if file.mode == "F":
        return 1
    if file.mode.startswith("I;16"):
        bits: int = tags.get(BITS_PER_SAMPLE, (16,))[0]
        return 2**bits - 1
    if file.format in ("PPM", "PNG"):  # which Pillow spreads over 16 bits
        return 2**16 - 1
    raise ValueError(f"mode {file.mode}, whose range from black to white the file does not tell")


def _opaque(image: Image.Image, layout: str) -> Image.Image:
    """The image on the background where it has transparent parts; ``layout`` is of a PNG's samples."""
    if not image.has_transparency_data:
        return image.convert("RGB") if image.mode == "LAB" else image  # grey of it is known by way of colour alone
    key = image.info.get("transparency")
    if layout in SPREAD and isinstance(key, int):
        image.info["transparency"] = key * SPREAD[layout]
    elif layout.startswith("RGB;16") and key is not None:
        raise ValueError("mode RGB of 16 bits with a transparent colour, whose lower bytes Pillow does not keep")

    def on_background(strip: Image.Image) -> Image.Image:
        if strip.mode == "La":
            strip = strip.convert("LA")
        background = Image.new("RGBA", strip.size, (BACKGROUND,) * 3 + (255,))
        return Image.alpha_composite(background, strip.convert("RGBA")).convert("RGB")

    return _converted(image, "RGB", on_background)


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
