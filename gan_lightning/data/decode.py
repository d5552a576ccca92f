"""Decode one image file of any mode, orientation and shape to pixels as displayed, or raise an error that names it."""

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import ExifTags, Image, TiffImagePlugin
from torch import Tensor

from gan_lightning.errors import UsageError
from gan_lightning.pixels import Depth

Fit = Literal["crop", "pad", "stretch"]
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # by the number of channels
BACKGROUND = 255  # white, behind transparent pixels
LONGEST = 8  # times the target aspect ratio: longer images are trimmed before scaling, since the crop removes the ends
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SKIP = ", or let train.py skip such files by data.unreadable=skip"
STRIP = 2**20  # pixels converted at once: converting takes many times the memory of the image
PHOTOMETRIC, BITS_PER_SAMPLE = 262, 258  # TIFF's tags
NO_TRANSPARENT_COLOR = "16-bit RGB with a transparent color, whose lower bytes Pillow does not keep"
OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}  # the opposite byte order
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R 601-2
SPREAD = {"L;2": 85, "L;4": 17}  # Pillow scales these PNG samples to [0, 255], but not their transparent value


def read_image(path: Path, sample_shape: tuple[int, ...], fit: Fit = "crop", depth: Depth = 8) -> Tensor:
    """Read one image file as (channels, height, width), scaled to this height and width according to ``fit``.

    ``crop`` scales the image to cover the size and crops the center, ``pad`` fits it on black, and ``stretch`` ignores
    the aspect ratio. Two channels are gray and alpha, four are color and alpha; without alpha, transparent pixels are
    blended with white. A depth of 8 gives uint8 (white is 255): 16-bit gray becomes value/257, rounded, other depths
    likewise, and 16-bit color its upper byte. 16 gives uint16 (white is 65,535), ``float`` gives float32 (white is 1).

    Raises:
        UsageError: the file is not a readable image.
    """
    channels, *sides = sample_shape
    crop = partial(middle, sides=sides) if fit == "crop" else _whole
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata, which is not used
            if depth == 8:
                pixels = np.array(fitted(decoded(path, channels, crop), sides, fit)).reshape(*sides, channels)
            else:
                pixels = _fitted_bands(deep(path, channels, crop), sides, fit)
    except Exception as error:  # Pillow's decoders raise anything from struct.error to MemoryError
        raise UsageError(f"{named(path)} is not a readable image ({_reason(error)}): remove it{SKIP}.") from error
    if depth == 16:
        pixels = np.rint(pixels * 65535).astype(np.uint16)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def named(path: Path | str) -> str:
    """A path as text that prints on one line and encodes to UTF-8, whatever its bytes are."""
    text = str(path)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def decoded(path: Path, channels: int, crop: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Read an image upright and cropped, with 8 bits per channel, in the mode of ``channels``."""
    # open a stream: given a path, Pillow memory-maps a TIFF, with swapped sides if its metadata rotate it
    with path.open("rb") as stream, Image.open(stream) as file:
        layout = _layout(file)
        image = crop(upright(file))
        image = _eight_bits(image, file) if _is_gray_of_more(image) else opaque(image, layout, channels in (2, 4))
    return image if image.mode == MODES[channels] else image.convert(MODES[channels])


def deep(path: Path, channels: int, crop: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Read an image upright and cropped as floats in [0, 1], (channels, height, width), at the depth of its file."""
    with path.open("rb") as stream, Image.open(stream) as file:
        if _is_color_of_more(file):
            return _in_channels(_both_bytes(path, _layout(file), crop), channels)
        image = crop(upright(file))
        if _is_gray_of_more(image):
            return _in_channels(_gray(image, file)[None], channels)
    pixels = np.asarray(decoded(path, channels, crop), dtype=np.float32) / 255
    return pixels.reshape(*pixels.shape[:2], channels).transpose(2, 0, 1)


def _layout(file: Image.Image) -> str:
    """Pillow's name for the layout of a file's samples (its raw mode)."""
    arguments = file.tile[0][3] if getattr(file, "tile", None) else ""  # type: ignore[attr-defined]
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _is_gray_of_more(image: Image.Image) -> bool:
    """Whether the image is gray with more than 8 bits, or floats."""
    return image.mode.startswith("I") or image.mode == "F"


def _is_color_of_more(file: Image.Image) -> bool:
    """Whether the file is color with more than 8 bits per channel, of which Pillow keeps 8."""
    if _is_gray_of_more(file):
        return False
    arguments = file.tile[0][3] if getattr(file, "tile", None) else ""  # type: ignore[attr-defined]
    most = arguments[1] if file.format == "PPM" and isinstance(arguments, tuple) else 0
    bits = getattr(file, "tag_v2", {}).get(BITS_PER_SAMPLE, (8,))
    return ";16" in _layout(file) or most > 255 or max(bits) > 8


def _both_bytes(path: Path, layout: str, crop: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Read 16-bit color as floats in [0, 1], (bands, height, width).

    Pillow keeps the upper byte of each sample, so the file is read twice, with both byte orders.
    """
    kind, order = layout[:-1], layout[-1:]
    if kind not in ("RGB;16", "RGBX;16", "RGBA;16"):
        raise ValueError(f"color of more than 8 bits in the layout {layout}, which only data.depth=8 reads")
    samples: np.ndarray = np.zeros((), dtype=np.float32)
    for factor, read_as in ((256, layout), (1, kind + OTHER_ORDER[order])):
        with path.open("rb") as stream, Image.open(stream) as file:
            if file.info.get("transparency") is not None:
                raise ValueError(NO_TRANSPARENT_COLOR)
            file.tile = [tile._replace(args=_told(read_as, tile.args)) for tile in file.tile]
            samples = samples + factor * np.asarray(crop(upright(file)), dtype=np.float32)
    return samples.transpose(2, 0, 1) / np.float32(65535)


def _told(layout: str, arguments: Any) -> Any:
    """A decoder's arguments with this layout, which is the first or only argument."""
    return layout if isinstance(arguments, str) else (layout, *arguments[1:])


def _in_channels(bands: np.ndarray, channels: int) -> np.ndarray:
    """Convert gray or color in [0, 1], with or without alpha, to ``channels`` channels, as Pillow converts bytes."""
    has_alpha, wants_alpha = len(bands) == 4, channels in (2, 4)
    color, alpha = (bands[:-1], bands[-1:]) if has_alpha else (bands, np.ones_like(bands[:1]))
    if has_alpha and not wants_alpha:
        color = color * alpha + (1 - alpha)
    if channels < 3 and len(color) == 3:
        color = np.tensordot(LUMA, color, 1)[None]
    elif channels >= 3:
        color = np.broadcast_to(color, (3, *color.shape[1:]))
    return np.concatenate([color, alpha]) if wants_alpha else color


def upright(file: Image.Image) -> Image.Image:
    """Load a file's image and rotate it according to its metadata, which may be broken even if the pixels are fine."""
    if isinstance(file, TiffImagePlugin.TiffImageFile):
        orientation = _orientation(file)
        file.load_end = lambda: None  # type: ignore[method-assign]  # it would read all metadata and rotate
        file.load()
    else:
        file.load()
        orientation = _orientation(file)
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return file if turn is None else file.transpose(turn)


def upright_size(path: Path) -> tuple[int, int]:
    """Width and height of a readable image as displayed."""
    with warnings.catch_warnings(), path.open("rb") as stream, Image.open(stream) as file:
        warnings.simplefilter("ignore")  # about metadata, as above
        return file.size[::-1] if _orientation(file) in range(5, 9) else file.size


def _orientation(file: Image.Image) -> object:
    try:
        tags = getattr(file, "tag_v2", {})
        own = tags.get(ExifTags.Base.Orientation)
        return file.getexif().get(ExifTags.Base.Orientation) if own is None else own
    except Exception:  # broken metadata
        return None


def middle(image: Image.Image, sides: Sequence[int]) -> Image.Image:
    """Trim the ends of an image far longer than the aspect ratio of ``sides``; the center stays in place."""
    height, width = sides
    most = LONGEST * image.height * width // height, LONGEST * image.width * height // width
    left, top = (max(0, (side - max(1, limit)) // 2) for side, limit in zip(image.size, most, strict=True))
    return image.crop((left, top, image.width - left, image.height - top)) if left or top else image


def _whole(image: Image.Image) -> Image.Image:
    return image


def _scaled_size(size: tuple[int, int], sides: Sequence[int], fit: Fit) -> tuple[int, int]:
    """The (width, height) that an image of this (width, height) is scaled to."""
    height, width = sides
    is_slimmer = size[0] * height <= size[1] * width
    if fit == "stretch":
        return width, height
    if is_slimmer == (fit == "crop"):
        return width, max(1, round(size[1] * width / size[0]))
    return max(1, round(size[0] * height / size[1])), height


def _fitted_bands(bands: np.ndarray, sides: Sequence[int], fit: Fit) -> np.ndarray:
    """Fit floats in [0, 1], (channels, height, width), to (*sides, channels).

    Scaling weights colors by alpha, as Pillow does for bytes: those of transparent pixels must not show.
    """
    size = bands.shape[:0:-1]
    is_weighted = len(bands) in (2, 4) and _scaled_size(size, sides, fit) != size
    if is_weighted:
        bands = np.concatenate([bands[:-1] * bands[-1:], bands[-1:]])
    pixels = np.stack([np.asarray(fitted(Image.fromarray(band), sides, fit)) for band in bands], axis=2)
    if is_weighted:
        color, alpha = pixels[..., :-1], pixels[..., -1:]
        pixels = np.concatenate([np.divide(color, alpha, out=np.zeros_like(color), where=alpha > 0), alpha], axis=2)
    return pixels.clip(0, 1)  # the filter overshoots


def fitted(image: Image.Image, sides: Sequence[int], fit: Fit) -> Image.Image:
    """Scale an image to cover, fit into, or equal ``sides`` (height, width), then crop or pad it to this size."""
    height, width = sides
    size = _scaled_size(image.size, sides, fit)
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return image.crop((left, top, left + width, top + height))  # pads with zeros


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Split an image into strips of rows, each with its top row."""
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _converted(image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert an image strip by strip to one of this mode."""
    whole = Image.new(mode, image.size)
    for top, strip in _strips(image):
        whole.paste(convert(strip), (0, top))
    return whole


def _eight_bits(image: Image.Image, file: Image.Image) -> Image.Image:
    """Reduce gray values of more than 8 bits, or floats in [0, 1], to bytes."""
    largest, is_inverted, transparent = _scale(image, file)

    def reduced(strip: Image.Image) -> Image.Image:
        values = np.asarray(strip, dtype=np.float64)
        gray = np.rint(values * (255 / largest))
        if is_inverted:
            gray = 255 - gray
        if transparent is not None:
            gray[values == transparent] = BACKGROUND
        return Image.fromarray(gray.astype(np.uint8))

    return _converted(image, "L", reduced)


def _gray(image: Image.Image, file: Image.Image) -> np.ndarray:
    """Convert gray values of more than 8 bits, or floats in [0, 1], to floats in [0, 1], (height, width)."""
    largest, is_inverted, transparent = _scale(image, file)
    values = np.asarray(image, dtype=np.float32)
    gray = values / np.float32(largest)
    if is_inverted:
        gray = 1 - gray
    return gray if transparent is None else np.where(values == transparent, np.float32(1), gray)


def _scale(image: Image.Image, file: Image.Image) -> tuple[int, bool, int | None]:
    """The largest possible value, whether it is black, and the transparent value, if any.

    Raises:
        ValueError: a value is out of range.
    """
    tags = getattr(file, "tag_v2", {})
    largest = _largest(file, tags)
    ends = np.array([(values.min(), values.max()) for values in (np.asarray(strip) for _, strip in _strips(image))])
    low, high = ends.min(), ends.max()
    if not (low >= 0 and high <= largest):  # also rejects NaN
        raise ValueError(f"mode {image.mode} with values from {low:g} to {high:g}, not 0 to {largest}")
    return largest, tags.get(PHOTOMETRIC) == 0, file.info.get("transparency")


def _largest(file: Image.Image, tags: dict[int, tuple[int, ...]]) -> int:
    """The value of white in a gray image of more than 8 bits."""
    if file.mode == "F":
        return 1
    if file.mode.startswith("I;16"):
        bits: int = tags.get(BITS_PER_SAMPLE, (16,))[0]
        return 2**bits - 1
    if file.format in ("PPM", "PNG"):  # Pillow scales them to 16 bits
        return 2**16 - 1
    raise ValueError(f"mode {file.mode}, whose range from black to white the file does not specify")


def opaque(image: Image.Image, layout: str = "", keeps_alpha: bool = False) -> Image.Image:
    """Blend transparent parts with the background, unless alpha is kept; ``layout`` is that of a PNG's samples."""
    if not image.has_transparency_data:
        return image.convert("RGB") if image.mode == "LAB" else image  # Pillow converts LAB to gray only via color
    key = image.info.get("transparency")
    if layout in SPREAD and isinstance(key, int):
        image.info["transparency"] = key * SPREAD[layout]
    elif layout.startswith("RGB;16") and key is not None:
        raise ValueError(NO_TRANSPARENT_COLOR)

    def laid(strip: Image.Image) -> Image.Image:
        strip = (strip.convert("LA") if strip.mode == "La" else strip).convert("RGBA")
        if keeps_alpha:
            return strip
        background = Image.new("RGBA", strip.size, (BACKGROUND,) * 3 + (255,))
        return Image.alpha_composite(background, strip).convert("RGB")

    return _converted(image, "RGBA" if keeps_alpha else "RGB", laid)


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
