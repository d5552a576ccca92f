"""Image files of every mode, depth, transparency, metadata and shape: read as they look, or refused by name."""

import io
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, PngImagePlugin
from torch.testing import assert_close

from gan_lightning.data import decode
from gan_lightning.data.decode import LONGEST, named, read_image
from gan_lightning.errors import UsageError
from gan_lightning.pixels import Depth

RANDOM = np.random.default_rng(0)
SIDE = 16
GRAY, COLOR = (1, SIDE, SIDE), (3, SIDE, SIDE)
SHADES = RANDOM.integers(0, 256, (SIDE, SIDE)).astype(np.uint8)
ORIENTATION = ExifTags.Base.Orientation


def gray(path: Path) -> np.ndarray:
    return read_image(path, GRAY)[0].numpy()


def tried(path: Path, shape: tuple[int, ...]) -> torch.Tensor | str:
    """The pixels, or what is said where they are refused."""
    try:
        return read_image(path, shape)
    except UsageError as error:
        return str(error)


def reduced(values: np.ndarray, largest: int) -> np.ndarray:
    """255 value / largest to the nearest whole number, in whole numbers."""
    return (2 * 255 * values.astype(np.int64) + largest) // (2 * largest)


# ---------------------------------------------------------------------------------------------------------- depths


def write_pgm(path: Path, values: np.ndarray, largest: int) -> Path:
    body = values.astype(">u2").tobytes() if largest > 255 else values.astype(np.uint8).tobytes()
    path.write_bytes(f"P5 {values.shape[1]} {values.shape[0]} {largest}\n".encode() + body)
    return path


def write_tiff(path: Path, body: bytes, order: str = "<", **tags: int) -> Path:
    """One strip of gray samples; tags by their numbers, t258=16 and the like."""
    entries = {256: SIDE, 257: SIDE, 259: 1, 262: 1, 273: 8, 277: 1, 278: SIDE, 279: len(body)}
    entries |= {int(name[1:]): value for name, value in tags.items()}
    directory = b"".join(
        struct.pack(f"{order}HHIHH", tag, 3, 1, *((value, 0) if value < 2**16 else (0, 0)))
        for tag, value in sorted(entries.items())
    )
    header = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(body))
    path.write_bytes(header + body + struct.pack(f"{order}H", len(entries)) + directory + bytes(4))
    return path


def wide(largest: int) -> np.ndarray:
    values = RANDOM.integers(0, largest + 1, (SIDE, SIDE))
    values[0, :4] = 0, largest, largest // 2, 1
    return values


@pytest.mark.parametrize("largest", [1, 15, 200, 255, 256, 1023, 4095, 65535])
def test_pgm_of_any_depth(tmp_path: Path, largest: int) -> None:
    """Pillow spreads them over 8 or 16 bits first, so that two roundings may meet."""
    values = wide(largest)
    actual = gray(write_pgm(tmp_path / "a.pgm", values, largest))
    assert abs(actual.astype(int) - reduced(values, largest)).max() <= (0 if largest in (1, 15, 255, 65535) else 1)
    assert actual[0, :2].tolist() == [0, 255]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("white_is_zero", [0, 1])
def test_tiff_of_sixteen_bits(tmp_path: Path, order: str, white_is_zero: int) -> None:
    """Of either byte order; Pillow does not know one of the four kinds, which is named."""
    values = wide(65535)
    path = tmp_path / "a.tif"
    write_tiff(path, values.astype(f"{order}u2").tobytes(), order, t258=16, t262=1 - white_is_zero)
    if white_is_zero and order == ">":
        with pytest.raises(UsageError, match=r"a\.tif is not a readable image"):
            gray(path)
    else:
        expected = reduced(values, 65535)
        assert (gray(path) == (255 - expected if white_is_zero else expected)).all()


def test_tiff_of_twelve_bits(tmp_path: Path) -> None:
    values = wide(4095)
    pairs = values.reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1)
    path = write_tiff(tmp_path / "a.tif", packed.astype(np.uint8).tobytes(), t258=12)
    assert (gray(path) == reduced(values, 4095)).all()


def test_png_of_sixteen_bits(tmp_path: Path) -> None:
    values = wide(65535)
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "a.png")
    assert (gray(tmp_path / "a.png") == reduced(values, 65535)).all()


def test_floats_in_the_unit_interval(tmp_path: Path) -> None:
    values = RANDOM.random((SIDE, SIDE)).astype(np.float32)
    values[0, :2] = 0, 1
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert (gray(tmp_path / "a.tif") == np.floor(values.astype(np.float64) * 255 + 0.5)).all()


@pytest.mark.parametrize("bad", [-0.5, 1.5, 255.0, float("nan"), float("inf")])
def test_other_floats_are_refused(tmp_path: Path, bad: float) -> None:
    values = RANDOM.random((SIDE, SIDE)).astype(np.float32)
    values[3, 4] = bad
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(UsageError, match=r"a\.tif is not a readable image \(mode F with values from .*, not 0 to 1\)"):
        gray(tmp_path / "a.tif")


@pytest.mark.parametrize("dtype", [np.int32, np.int16])
def test_whole_numbers_of_no_known_range_are_refused(tmp_path: Path, dtype: Any) -> None:
    body = SHADES.astype(dtype).tobytes()
    path = write_tiff(tmp_path / "a.tif", body, t258=8 * np.dtype(dtype).itemsize, t339=2)
    with pytest.raises(UsageError, match=r"a\.tif is not a readable image \(mode I, whose range"):
        gray(path)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
@pytest.mark.parametrize("shape", [GRAY, COLOR])
def test_modes_of_eight_bits_are_as_pillow_converts_them(tmp_path: Path, mode: str, shape: tuple[int, ...]) -> None:
    image = Image.fromarray(RANDOM.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)).convert(mode)
    image.save(tmp_path / "a.tif")
    expected = np.asarray(image.convert("L" if shape == GRAY else "RGB")).reshape(SIDE, SIDE, -1)
    assert np.array_equal(read_image(tmp_path / "a.tif", shape).permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("shape", [GRAY, COLOR])
@pytest.mark.parametrize("lightness", [0, 20, 60, 100])
def test_lab_is_read_with_its_lightness(tmp_path: Path, shape: tuple[int, ...], lightness: float) -> None:
    """CIE L* to luminance, and that to sRGB's shade (IEC 61966-2-1)."""
    Image.new("LAB", (SIDE, SIDE), (round(lightness * 2.55), 128, 128)).save(tmp_path / "a.tif")
    luminance = ((lightness + 16) / 116) ** 3 if lightness > 8 else lightness / 903.3
    shade = 12.92 * luminance if luminance <= 0.0031308 else 1.055 * luminance ** (1 / 2.4) - 0.055
    pixels = read_image(tmp_path / "a.tif", shape).double()
    assert_close(pixels, torch.full(shape, 255 * shade, dtype=torch.double), rtol=0, atol=4)


@pytest.mark.parametrize("mode", ["I", "F", "I;16", "I;16B", "I;16L", "HSV", "La", "RGBa", "PA", "RGBX"])
def test_every_mode_that_pillow_has_is_gray_or_refused(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never white or black where it is neither, whatever format may bring it."""
    image = Image.new(mode, (SIDE, SIDE), {"I": 32768, "F": 0.5}.get(mode, 32768) if mode[0] in "IF" else None)
    if mode == "PA":
        image = Image.new("L", (SIDE, SIDE), 128).convert("PA")
    elif mode[0] not in "IF":
        values = {"A": 255, "a": 255, "H": 0, "S": 0, "B": 128}
        bands = [Image.new("L", (SIDE, SIDE), values.get(band, 128)) for band in image.getbands()]
        image = Image.merge(mode, bands)
    (tmp_path / "a").touch()
    monkeypatch.setattr(Image, "open", lambda stream: image)
    pixels = tried(tmp_path / "a", GRAY)
    if isinstance(pixels, str):
        assert mode == "I"
        assert "mode I" in pixels
    else:
        assert abs(pixels.float() - 128).max() <= 1


# ---------------------------------------------------------------------------------------------------- transparency


ALPHA = np.zeros((SIDE, SIDE), dtype=np.uint8)
ALPHA[:, 8:], ALPHA[:, 4:8] = 255, 51  # nothing, a fifth, all


def on_white(values: np.ndarray, alpha: np.ndarray = ALPHA) -> np.ndarray:
    share = alpha.reshape(SIDE, SIDE, *[1] * (values.ndim - 2)) / 255
    return values * share + 255 * (1 - share)


@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_transparent_color_is_laid_on_white(tmp_path: Path, ending: str) -> None:
    colors = np.zeros((SIDE, SIDE, 4), dtype=np.uint8)
    colors[..., 0], colors[..., 3] = 255, ALPHA
    Image.fromarray(colors).save(tmp_path / f"a.{ending}", lossless=True)
    actual = read_image(tmp_path / f"a.{ending}", COLOR).permute(1, 2, 0).numpy()
    assert_close(actual.astype(float), on_white(colors[..., :3].astype(float)), rtol=0, atol=1)
    assert (actual[:, :4] == 255).all()  # not the red that is hidden
    assert (actual[:, 8:] == (255, 0, 0)).all()


def test_transparent_gray_is_laid_on_white(tmp_path: Path) -> None:
    Image.merge("LA", [Image.fromarray(SHADES), Image.fromarray(ALPHA)]).save(tmp_path / "a.png")
    assert_close(gray(tmp_path / "a.png").astype(float), on_white(SHADES.astype(float)), rtol=0, atol=1)


def test_an_opaque_alpha_changes_nothing(tmp_path: Path) -> None:
    colors = RANDOM.integers(0, 256, (40, 50, 3)).astype(np.uint8)
    image = Image.fromarray(colors)
    image.save(tmp_path / "rgb.png")
    image.putalpha(255)
    image.save(tmp_path / "rgba.png")
    assert torch.equal(read_image(tmp_path / "rgba.png", COLOR), read_image(tmp_path / "rgb.png", COLOR))


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 51])])
@pytest.mark.parametrize("ending", ["png", "gif"])
def test_a_transparent_palette_is_laid_on_white(tmp_path: Path, transparency: int | bytes, ending: str) -> None:
    index = RANDOM.integers(0, 3, (SIDE, SIDE)).astype(np.uint8)
    index[0, :3] = 0, 1, 2
    image = Image.fromarray(index).convert("P")
    image.putdata(index.flatten().tolist())
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    if ending == "gif" and isinstance(transparency, bytes):
        transparency = 1  # all that it can say
    image.save(tmp_path / f"a.{ending}", transparency=transparency)
    actual = read_image(tmp_path / f"a.{ending}", COLOR)
    third = [204, 204, 255] if isinstance(transparency, bytes) else [0, 0, 255]
    assert actual[:, 0, :3].T.tolist() == [[255, 0, 0], [255, 255, 255], third]


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def write_png(path: Path, rows: list[bytes], bits: int, kind: int, key: tuple[int, ...]) -> Path:
    """A PNG with a tRNS chunk, byte by byte."""
    header = struct.pack(">IIBBBBB", SIDE, SIDE, bits, kind, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), (b"tRNS", struct.pack(f">{len(key)}H", *key)), (b"IDAT", content), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return path


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_shade_is_white(tmp_path: Path, bits: int) -> None:
    largest = 2**bits - 1
    values = RANDOM.integers(0, min(largest, 3) + 1, (SIDE, SIDE))
    digits = [((row[:, None] >> np.arange(bits)[::-1]) & 1).flatten().astype(np.uint8) for row in values]
    path = write_png(tmp_path / "a.png", [np.packbits(row).tobytes() for row in digits], bits, 0, (0,))
    assert (gray(path) == np.where(values == 0, 255, reduced(values, largest))).all()
    path = write_png(tmp_path / "a.png", [np.packbits(row).tobytes() for row in digits], bits, 0, (1,))
    assert (gray(path) == np.where(values == 1, 255, reduced(values, largest))).all()


def test_a_transparent_color_is_white(tmp_path: Path) -> None:
    values = RANDOM.integers(0, 2, (SIDE, SIDE, 3)).astype(np.uint8)
    path = write_png(tmp_path / "a.png", [row.tobytes() for row in values], 8, 2, (1, 0, 1))
    expected = np.where((values == (1, 0, 1)).all(-1, keepdims=True), 255, values)
    assert (read_image(path, COLOR).permute(1, 2, 0).numpy() == expected).all()
    rows = [row.astype(">u2").tobytes() for row in values]
    with pytest.raises(UsageError, match=r"a\.png is not a readable image \(16-bit RGB with a transparent"):
        read_image(write_png(tmp_path / "a.png", rows, 16, 2, (1, 0, 1)), COLOR)


# -------------------------------------------------------------------------------------------------------- metadata


def exif(orientation: Any, kind: int = 3, count: int = 1) -> bytes:
    """An EXIF block with nothing but an orientation, of any type, and a resolution that is no number."""
    entries = struct.pack("<HHI4s", 0x0112, kind, count, orientation)
    entries += struct.pack("<HHI4s", 0x011A, 2, 4, b"abc\0")
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4)


def short(value: int) -> bytes:
    return struct.pack("<HH", value, 0)


PICTURE = RANDOM.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
ODD = {
    "0": exif(short(0)),
    "9": exif(short(9)),
    "65535": exif(short(65535)),
    "text": exif(b"6\0\0\0", 2, 2),
    "bytes": exif(b"\6\0\0\0", 7, 4),
    "rational": exif(struct.pack("<I", 10**6), 5),
    "empty": exif(short(6), 3, 0),
    "cut": exif(short(1))[:17],
    "header": b"Exif\0\0",
    "noise": b"Exif\0\0" + bytes(range(1, 200)),
    "loop": b"Exif\0\0II*\0" + struct.pack("<IHHHII", 8, 1, 0x8769, 4, 1, 8) + struct.pack("<I", 8),
}


@pytest.mark.parametrize("metadata", ODD.values(), ids=ODD)
@pytest.mark.parametrize("ending", ["jpg", "webp", "png"])
def test_odd_metadata_hides_no_pixels(tmp_path: Path, metadata: bytes, ending: str) -> None:
    plain, odd = tmp_path / f"plain.{ending}", tmp_path / f"odd.{ending}"
    Image.fromarray(PICTURE).save(plain, quality=95)
    Image.fromarray(PICTURE).save(odd, quality=95, exif=metadata)
    assert torch.equal(read_image(odd, COLOR), read_image(plain, COLOR))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("ending", ["jpg", "webp", "png"])
def test_images_are_turned_upright(tmp_path: Path, orientation: int, odd: bool, ending: str) -> None:
    """Also where the rest of the metadata cannot be read."""
    path = tmp_path / f"a.{ending}"
    plain = Image.Exif()
    plain[ORIENTATION] = orientation
    Image.fromarray(PICTURE).save(path, quality=95, exif=exif(short(orientation)) if odd else plain)
    with Image.open(path) as file:
        stored = np.asarray(file.convert("RGB"))
    rows, columns = np.indices((SIDE, SIDE))
    last = SIDE - 1
    # EXIF 2.3: which stored row and column is seen at each place
    seen = {
        1: (rows, columns),
        2: (rows, last - columns),
        3: (last - rows, last - columns),
        4: (last - rows, columns),
        5: (columns, rows),
        6: (last - columns, rows),
        7: (last - columns, last - rows),
        8: (columns, last - rows),
    }
    assert np.array_equal(read_image(path, COLOR).permute(1, 2, 0).numpy(), stored[seen[orientation]])


@pytest.mark.parametrize(
    ("orientation", "compression"),
    [*((o, None) for o in (0, 1, 3, 6, 8, 9, 700)), *((o, "tiff_lzw") for o in (1, 3, 6, 8))],
)
def test_tiff_is_turned_upright(tmp_path: Path, orientation: int, compression: str | None) -> None:
    """Of another height than width, which its header swaps."""
    shades = RANDOM.integers(0, 256, (SIDE, 2 * SIDE)).astype(np.uint8)
    Image.fromarray(shades).save(tmp_path / "a.tif", tiffinfo={274: orientation}, compression=compression)
    turned = {3: np.rot90(shades, 2), 6: np.rot90(shades, -1), 8: np.rot90(shades)}.get(orientation, shades)
    top, left = ((side - SIDE) // 2 for side in turned.shape)
    assert np.array_equal(gray(tmp_path / "a.tif"), turned[top : top + SIDE, left : left + SIDE])


@pytest.mark.parametrize("pointer", [0, 3, 9, 2**31])
def test_odd_directories_of_tiff_hide_no_pixels(tmp_path: Path, pointer: int) -> None:
    """A pointer to EXIF that leads astray, and an orientation beside it."""
    entries = {256: SIDE, 257: SIDE, 258: 8, 259: 1, 262: 1, 273: 8, 274: 3, 277: 1, 278: SIDE, 279: SIDE * SIDE}
    directory = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in sorted(entries.items()))
    directory += struct.pack("<HHII", 0x8769, 4, 1, pointer)
    body = struct.pack("<H", len(entries) + 1) + directory + bytes(4)
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<I", 8 + SIDE * SIDE) + SHADES.tobytes() + body)
    assert np.array_equal(gray(tmp_path / "a.tif"), np.rot90(SHADES, 2))


# ------------------------------------------------------------------------------------------- what cannot be decoded


RAISED = [
    *(struct.error("unpack"), AttributeError("no tag"), TypeError("bad operand"), SyntaxError("not a PNG file")),
    *(OverflowError("too large"), EOFError(), zlib.error("-3"), MemoryError(), ZeroDivisionError("x"), KeyError(7)),
    *(Image.DecompressionBombError("bomb"), IndexError("list"), RuntimeError("codec"), ValueError("two\nlines")),
    *(AssertionError(), RecursionError("deep"), UnicodeDecodeError("utf-8", b"x", 0, 1, "invalid"), LookupError("x")),
]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_whatever_pillow_raises_names_the_file(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(stream: Any) -> None:
        raise error

    (tmp_path / "a.png").touch()
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(UsageError, match=r"^/.*/a\.png is not a readable image \(.+\): remove it, or let") as info:
        read_image(tmp_path / "a.png", COLOR)
    assert "\n" not in str(info.value)


def encoded(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(RANDOM.integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9])
def test_a_file_that_is_cut_is_named(tmp_path: Path, kind: str, share: float) -> None:
    content = encoded(kind)
    path = tmp_path / "a.img"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UsageError, match=r"a\.img is not a readable image"):
        read_image(path, COLOR)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM"])
def test_a_damaged_file_is_read_or_named(tmp_path: Path, kind: str) -> None:
    content = np.frombuffer(encoded(kind), dtype=np.uint8)
    path = tmp_path / "a.img"
    for _ in range(40):
        damaged = content.copy()
        where = RANDOM.integers(0, min(len(content), 300), 3)
        damaged[where] = RANDOM.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        pixels = tried(path, COLOR)
        if isinstance(pixels, str):
            assert pixels.startswith(f"{path} is not a readable image (")
        else:
            assert pixels.shape == COLOR


def test_a_bomb_is_named(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "b")
    header = struct.pack(">IIBBBBB", 10**6, 10**6, 1, 0, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))
    with pytest.raises(UsageError, match=r"a\.png is not a readable image \(Image size .* exceeds limit"):
        read_image(tmp_path / "a.png", COLOR)


@pytest.mark.parametrize(
    ("name", "shown"), [("a b.png", "a b.png"), ("图.png", "图.png"), ("a\nb.png", r"a\nb.png"), ("\udce9", r"\udce9")]
)
def test_names_are_shown_on_one_line(name: str, shown: str) -> None:
    assert named(name) == shown
    named(name).encode()


# ----------------------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize("ratio", [LONGEST, LONGEST + 1, 100, 101])
@pytest.mark.parametrize("short", [1, 5, 16, 40])
def test_long_images_are_cropped_as_if_they_had_been_scaled_whole(tmp_path: Path, ratio: int, short: int) -> None:
    """Upright and lying, of waves of 4 squares; the longer ones to half a pixel of the crop."""
    wave = 128 + 100 * np.sin(2 * np.pi * np.arange(short * ratio) / (4 * short))
    shades = np.tile(wave, (short, 1)).astype(np.uint8)
    half_a_pixel = 0.5 * 100 * 2 * np.pi / (4 * SIDE) + 1  # and what the filter does to it
    left = (SIDE * ratio - SIDE) // 2
    for lies in (True, False):
        image = Image.fromarray(shades if lies else shades.T.copy())
        whole = image.resize((SIDE * ratio, SIDE) if lies else (SIDE, SIDE * ratio), Image.Resampling.LANCZOS)
        expected = np.asarray(whole)[:, left : left + SIDE] if lies else np.asarray(whole)[left : left + SIDE]
        image.save(tmp_path / "a.png")
        assert abs(gray(tmp_path / "a.png").astype(int) - expected).max() <= (
            half_a_pixel + 1 if ratio > LONGEST else 0
        )


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (3, 50_001)])
def test_a_thread_takes_little_memory(tmp_path: Path, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """No image on the way has more pixels than ``LONGEST`` squares of the size asked for."""
    Image.new("RGB", size, (9, 8, 7)).save(tmp_path / "a.png")
    resize, largest = Image.Image.resize, []

    def watched(image: Image.Image, size: tuple[int, int], *args: Any) -> Image.Image:
        largest.append(size[0] * size[1])
        return resize(image, size, *args)

    monkeypatch.setattr(decode.Image.Image, "resize", watched)
    tracemalloc.start()
    pixels = read_image(tmp_path / "a.png", (3, 256, 256))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pixels.flatten(1).unique(dim=1).flatten().tolist() == [9, 8, 7]
    assert max(largest) <= (LONGEST + 1) * 256**2
    assert peak < 10 * 2**20


LARGE = {  # an image: its mode, its file's ending and the bytes that Pillow has of each pixel
    "gray of 16 bits": ("I;16", "png", 2),
    "floats": ("F", "tif", 4),
    "with alpha": ("RGBA", "png", 4),
}
READING = """
import re, sys
from pathlib import Path
from gan_lightning.data.decode import read_image

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

read_image(Path(sys.argv[1]), (1, 16, 16))
before = peak()
read_image(Path(sys.argv[2]), (1, 16, 16))
print(1024 * (peak() - before))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system has no /proc")
@pytest.mark.parametrize("kind", LARGE)
def test_a_large_image_takes_a_few_times_its_own_bytes(tmp_path: Path, kind: str) -> None:
    mode, ending, size = LARGE[kind]
    for name, side in (("small", 100), ("large", 4000)):
        Image.new(mode, (side, side)).save(tmp_path / f"{name}.{ending}")
    program = [sys.executable, "-c", READING, *(str(tmp_path / f"{name}.{ending}") for name in ("small", "large"))]
    printed = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    assert int(printed) < 2.5 * size * 4000**2 + 40 * 2**20  # which a strip may take


@pytest.mark.parametrize("mode", ["I;16", "F", "RGBA", "LA", "P"])
def test_strips_are_the_whole_image(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bands = len(Image.new(mode, (1, 1)).getbands())
    dtype = {"I;16": np.uint16, "F": np.float32}.get(mode, np.uint8)
    values = RANDOM.integers(0, 2 if mode == "F" else 256, (40, 32, bands)).astype(dtype)
    image = Image.frombytes(mode, (32, 40), values.tobytes())
    if mode == "P":
        image.putpalette(bytes(RANDOM.integers(0, 256, 768).astype(np.uint8)))
        image.info["transparency"] = bytes(range(256))
    image.save(tmp_path / "a.tif" if mode == "F" else tmp_path / "a.png")
    path = next(tmp_path.iterdir())
    whole = [read_image(path, shape) for shape in (GRAY, COLOR)]
    monkeypatch.setattr(decode, "STRIP", 100)  # three rows, and one at the end
    assert all(torch.equal(read_image(path, x.shape), x) for x in whole)


@pytest.mark.parametrize("depth", [16, "float"])
@pytest.mark.parametrize(("mode", "channels"), [("RGBA", 4), ("LA", 2)])
def test_hidden_colors_do_not_show_where_alpha_is_scaled(
    tmp_path: Path, mode: str, channels: int, depth: Depth
) -> None:
    """At the border of white and a transparent half of black, as at a depth of 8, up to its rounding."""
    values = np.zeros((16, 16, channels), dtype=np.uint8)
    values[:, :9] = 255
    Image.frombytes(mode, (16, 16), values.tobytes()).save(tmp_path / "a.png")
    shape = (channels, 8, 8)
    found = read_image(tmp_path / "a.png", shape, depth=depth).double() / (65535 if depth == 16 else 1)
    expected = read_image(tmp_path / "a.png", shape).double() / 255
    visible = expected[-1] > 0.02
    assert ((expected[-1] > 0.1) & (expected[-1] < 0.9)).any()
    assert_close(found[-1], expected[-1], rtol=0, atol=1 / 255)
    assert_close(found[:-1, visible], torch.ones_like(found[:-1, visible]), rtol=0, atol=0.02)
