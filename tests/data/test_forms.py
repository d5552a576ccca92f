"""The form that an image file is given: its height and width by crop, pad or stretch, its channels and its depth."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import counts
from PIL import Image
from test_decode import chunk
from test_images import TINY, image_folder, ready

from gan_lightning.data.decode import Fit, read_image
from gan_lightning.data.folder import ImageFolder
from gan_lightning.data.pairs import PairedFolder
from gan_lightning.errors import UsageError
from gan_lightning.sampling import write_tiff

RANDOM = np.random.default_rng(0)
HEIGHT, WIDTH = 12, 20
DEEP = RANDOM.integers(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16)
DEEP[0, :3] = 0, 1, 65535


def shape(channels: int) -> tuple[int, int, int]:
    return channels, HEIGHT, WIDTH


def colors(channels: int) -> np.ndarray:
    return RANDOM.integers(0, 65536, (HEIGHT, WIDTH, channels)).astype(np.uint16)


def pixels(path: Path, channels: int, **form: Any) -> np.ndarray:
    """(height, width, channels), at the file's own size."""
    return read_image(path, shape(channels), **form).permute(1, 2, 0).numpy()


# ------------------------------------------------------------------------------------------------- height and width

FITS: list[tuple[Fit, tuple[int, int], tuple[int, int], tuple[int, int]]] = [
    # how, what is asked for, the image scaled, and where its left upper corner lies; all as (width, height)
    ("crop", (10, 12), (20, 12), (-5, 0)),
    ("crop", (40, 12), (40, 24), (0, -6)),
    ("crop", (20, 12), (20, 12), (0, 0)),
    ("pad", (20, 20), (20, 12), (0, 4)),
    ("pad", (10, 12), (10, 6), (0, 3)),
    ("pad", (41, 12), (20, 12), (11, 0)),
    ("pad", (1, 100), (1, 1), (0, 50)),
    ("stretch", (10, 30), (10, 30), (0, 0)),
]


@pytest.mark.parametrize(("fit", "asked", "scaled", "corner"), FITS)
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_an_image_is_fitted_to_any_height_and_width(
    tmp_path: Path, fit: Fit, asked: tuple[int, int], scaled: tuple[int, int], corner: tuple[int, int], mode: str
) -> None:
    bands = len(mode)
    image = Image.fromarray(RANDOM.integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)).convert(mode)
    image.save(tmp_path / "a.png")
    whole = np.asarray(image if scaled == image.size else image.resize(scaled, Image.Resampling.LANCZOS))
    whole = whole.reshape(*whole.shape[:2], bands)
    expected = np.zeros((asked[1], asked[0], bands), dtype=np.uint8)
    for y in range(asked[1]):
        for x in range(asked[0]):
            v, u = y - corner[1], x - corner[0]
            if 0 <= v < scaled[1] and 0 <= u < scaled[0]:
                expected[y, x] = whole[v, u]
    found = read_image(tmp_path / "a.png", (bands, *asked[::-1]), fit)
    assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)


def test_a_crop_of_a_long_shape_keeps_what_it_needs(tmp_path: Path) -> None:
    """An image whose shape is asked for is whole, however long it is; of a far longer one the ends are cut first."""
    shades = RANDOM.integers(0, 256, (4, 400), dtype=np.uint8)
    Image.fromarray(shades).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png", (1, 4, 400))[0].numpy(), shades)
    assert np.array_equal(read_image(tmp_path / "a.png", (1, 4, 4))[0].numpy(), shades[:, 198:202])
    assert read_image(tmp_path / "a.png", (1, 400, 1)).shape == (1, 400, 1)


# ---------------------------------------------------------------------------------------------------------- channels


def test_alpha_is_a_channel_of_two_and_of_four(tmp_path: Path) -> None:
    four = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
    Image.fromarray(four).save(tmp_path / "rgba.png")
    Image.fromarray(four[..., :3]).save(tmp_path / "rgb.png")
    assert np.array_equal(pixels(tmp_path / "rgba.png", 4), four)
    assert np.array_equal(pixels(tmp_path / "rgba.png", 2)[..., 1], four[..., 3])
    assert np.array_equal(pixels(tmp_path / "rgb.png", 4)[..., :3], four[..., :3])
    assert (pixels(tmp_path / "rgb.png", 4)[..., 3] == 255).all()
    assert (pixels(tmp_path / "rgb.png", 2)[..., 1] == 255).all()


@pytest.mark.parametrize("kept", [1, 2, 3, 4])
def test_deep_color_is_converted_as_bytes_are(tmp_path: Path, kept: int) -> None:
    """To a shade of eight bits, with alpha laid on white where it is no channel."""
    write_tiff(tmp_path / "deep.tif", colors(4))
    with Image.open(tmp_path / "deep.tif") as upper:
        upper.save(tmp_path / "shallow.png")
    deep, shallow = pixels(tmp_path / "deep.tif", kept, depth=16), pixels(tmp_path / "shallow.png", kept)
    assert np.abs(deep / 65535 - shallow / 255).max() < 2 / 255


# ------------------------------------------------------------------------------------------------------------- depth


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_gray_of_sixteen_bits_is_kept(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(DEEP).save(path)
    assert np.array_equal(pixels(path, 1, depth=16)[..., 0], DEEP)
    assert np.abs(pixels(path, 1, depth="float")[..., 0] - DEEP / 65535).max() < 1e-7
    assert np.array_equal(pixels(path, 3, depth=16), np.stack([DEEP] * 3, 2))


def write_color_png(path: Path, values: np.ndarray, kind: int) -> None:
    """16 bits, with the filter that subtracts the row above."""
    rows = values.astype(">u2").view(np.uint8).reshape(len(values), -1)
    above = np.concatenate([np.zeros_like(rows[:1]), rows[:-1]])
    body = zlib.compress(b"".join(b"\2" + row.tobytes() for row in rows - above))
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, kind, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", body), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))


def write_color_tiff(path: Path, values: np.ndarray, order: str, deflated: bool) -> None:
    """RGB of 16 bits in either byte order, one strip."""
    body = values.astype(f"{order}u2").tobytes()
    body = zlib.compress(body) if deflated else body
    entries = {256: WIDTH, 257: HEIGHT, 259: 8 if deflated else 1, 262: 2, 277: 3, 278: HEIGHT}
    end = 8 + len(body)
    longs = {258: (3, 3, end), 273: (4, 1, 8), 279: (4, 1, len(body))}
    packed = {tag: struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in entries.items()}
    packed |= {tag: struct.pack(f"{order}HHII", tag, *value) for tag, value in longs.items()}
    directory = struct.pack(f"{order}H", len(packed)) + b"".join(packed[tag] for tag in sorted(packed)) + bytes(4)
    header = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, end + 6)
    path.write_bytes(header + body + struct.pack(f"{order}HHH", 16, 16, 16) + directory)


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_color_of_a_tiff_keeps_both_bytes(tmp_path: Path, order: str, deflated: bool) -> None:
    values = colors(3)
    write_color_tiff(tmp_path / "a.tif", values, order, deflated)
    assert np.array_equal(pixels(tmp_path / "a.tif", 3, depth=16), values)
    assert np.array_equal(pixels(tmp_path / "a.tif", 3), values >> 8)


@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (6, 4)])
def test_color_of_a_png_keeps_both_bytes(tmp_path: Path, kind: int, channels: int) -> None:
    values = colors(channels)
    write_color_png(tmp_path / "a.png", values, kind)
    assert np.array_equal(pixels(tmp_path / "a.png", channels, depth=16), values)
    assert np.array_equal(pixels(tmp_path / "a.png", channels), values >> 8)


def test_color_whose_lower_bytes_are_lost_is_refused(tmp_path: Path) -> None:
    write_color_png(tmp_path / "a.png", colors(2), 4)
    (tmp_path / "a.ppm").write_bytes(f"P6 {WIDTH} {HEIGHT} 1023\n".encode() + bytes(HEIGHT * WIDTH * 6))
    for name in ("a.png", "a.ppm"):
        with pytest.raises(UsageError, match=r"\(color of more than 8 bits .*, which only data\.depth=8 reads\)"):
            pixels(tmp_path / name, 3, depth=16)
        assert pixels(tmp_path / name, 3).dtype == np.uint8


def test_bytes_are_widened_and_floats_kept(tmp_path: Path) -> None:
    eight = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(eight).save(tmp_path / "a.png")
    assert np.array_equal(pixels(tmp_path / "a.png", 3, depth=16), 257 * eight.astype(np.uint16))
    floats = RANDOM.random((HEIGHT, WIDTH), dtype=np.float32)
    Image.fromarray(floats).save(tmp_path / "a.tif")
    assert np.array_equal(pixels(tmp_path / "a.tif", 1, depth="float")[..., 0], floats)
    assert np.array_equal(pixels(tmp_path / "a.tif", 1, depth=16)[..., 0], np.rint(65535 * floats))


def test_a_scaled_image_stays_within_black_and_white(tmp_path: Path) -> None:
    """Whose edges the filter would sharpen beyond them."""
    edge = np.where(np.arange(WIDTH) < 10, 0, 65535).astype(np.uint16)
    Image.fromarray(np.tile(edge, (HEIGHT, 1))).save(tmp_path / "a.png")
    for depth, white in ((16, 65535), ("float", 1.0)):
        found = read_image(tmp_path / "a.png", (1, 60, 100), depth=depth).float()  # type: ignore[arg-type]
        assert (found.min(), found.max()) == (0, white)


@pytest.mark.parametrize("value_range", ["signed", "unit"])
@pytest.mark.parametrize("depth", [16, "float"])
@pytest.mark.parametrize("memory_limit", [8.0, TINY])
def test_values_of_rounds_are_those_of_the_files(
    tmp_path: Path, value_range: str, depth: Any, memory_limit: float
) -> None:
    """Within 1/65535 of black to white, in memory and through workers."""
    (tmp_path / "images").mkdir()
    files = [RANDOM.integers(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16) for _ in range(4)]
    for i, values in enumerate(files):
        Image.fromarray(values).save(tmp_path / "images" / f"{i}.png")
    options = {"depth": depth, "range": value_range, "memory_limit": memory_limit, "channels": 1, "workers": 0}
    data: ImageFolder = ready(image_folder(tmp_path / "images", 4, [HEIGHT, WIDTH], **options))  # type: ignore[arg-type]
    low, high = data.value_range
    for batch in (data.fetcher()(0, 1), data.training_samples(4, 0)):
        unit = (batch.x.reshape(4, HEIGHT, WIDTH).double() - low) / (high - low)
        assert (unit.min() >= 0) & (unit.max() <= 1)
        for values in files:
            distance = (unit - torch.from_numpy(values / 65535)).abs().amax((1, 2))
            assert distance.min() < 1e-6


def test_pairs_take_any_form(tmp_path: Path) -> None:
    for side, size in (("A", (WIDTH, HEIGHT)), ("B", (10, 10))):
        (tmp_path / "pairs" / side).mkdir(parents=True)
        for i in range(4):
            values = RANDOM.integers(0, 65536, size[::-1]).astype(np.uint16)
            Image.fromarray(values).save(tmp_path / "pairs" / side / f"{i}.png")
    options: dict[str, Any] = {"channels": 1, "depth": 16, "cache": str(tmp_path / "cache")}
    data = PairedFolder(str(tmp_path / "pairs"), 2, [16, 24], fit="stretch", **options)
    data.trainer = counts()
    data.setup()
    rounds = data.fetcher()(0, 1)
    assert rounds.x.shape == rounds.y.shape == (1, 1, 1, 2, 1, 16, 24)
    assert data.images.dtype == torch.uint16
    other = PairedFolder(str(tmp_path / "pairs"), 2, [16, 24], fit="pad", **options)
    other.trainer = counts()
    with pytest.raises(UsageError, match=r"20 x 12 pixels, and the one in B 10 x 10: .* or data\.fit=stretch"):
        other.setup()
