"""Sample from a trained GAN and write the samples to files."""

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, TiffImagePlugin
from rich.console import Console
from rich.progress import track
from torch import Tensor

from gan_lightning.batch import Batch
from gan_lightning.config import one_line
from gan_lightning.data.loader import Batches, RealData
from gan_lightning.errors import UsageError
from gan_lightning.files import written_aside
from gan_lightning.gan import GAN
from gan_lightning.pixels import DEPTHS, in_depth

SECONDS_PER_FRAME = 0.06
LARGEST = {".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383}  # pixels per side


def to_device(gan: GAN, device: str) -> GAN:
    """Move the GAN to a device; auto means the accelerator if there is one, else the CPU.

    Raises:
        UsageError: the device does not exist.
    """
    if device == "auto":
        return gan.to(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    try:
        torch.zeros(1, device=device).item()  # fails on meta, which has only shapes
        return gan.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device={device} cannot be used ({one_line(error)}): give auto, cpu or cuda.") from error


def generate(
    gan: GAN, latents: Tensor, batch_size: int, raw: bool = False, labels: Tensor | None = None
) -> Iterator[Tensor]:
    """Generate samples from latents (N, size) and labels, in batches (batch_size, *sample_shape), float32, on the CPU.

    In evaluation mode, each sample depends only on its own latent and label. A terminal shows a progress bar.
    """
    batches = Batches(Batch(latents, labels), batch_size)
    console = Console(stderr=True)
    for z, y, _ in track(batches, "Sampling", console=console, transient=True, disable=not sys.stderr.isatty()):
        yield gan.sample(len(z), latents=z, labels=y, raw=raw).float().cpu()


def value_range(data: RealData) -> tuple[float, float]:
    """The range of the data's values, in the data's own units: bounded for images, unbounded for points."""
    return data.units_range or (-math.inf, math.inf)


def write_arrays(
    path: Path,
    samples: Tensor,
    latents: Tensor,
    labels: Tensor | None,
    seed: int,
    data: RealData,
    class_names: Sequence[str] = (),
) -> None:
    """Write ``samples``, ``latents``, any ``labels``, ``seed`` and ``value_range`` to an .npz or .pt (tensors) file.

    Labels are indices into ``class_names``, or weights of the classes in this order; the names are written too. A .npy
    file has only the samples. Samples are in the data's own units.
    """
    samples = data.in_units(samples)
    arrays = {"samples": samples, "latents": latents, "value_range": torch.tensor(value_range(data))}
    if labels is not None:
        arrays["labels"] = labels
    names = {} if labels is None or not class_names else {"class_names": list(class_names)}
    with written_aside(path) as aside, aside.open("wb") as file:
        if path.suffix.lower() == ".npy":
            np.save(file, samples.numpy())
        elif path.suffix.lower() == ".npz":
            numeric = {name: array.numpy() for name, array in arrays.items()}
            np.savez(file, seed=seed, **numeric, **names)  # type: ignore[arg-type]
        else:
            torch.save(arrays | names | {"seed": seed}, file)


def write_records(path: Path, samples: Tensor, data: RealData, classes: Sequence[str] | None = None) -> None:
    """Write samples as the rows of a CSV file, in the data's own columns, with the name of each sample's class."""
    with written_aside(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        data.write_csv(file, samples, *(() if classes is None else (classes,)))


def write_picture(path: Path, picture: Tensor) -> None:
    """Write a uint8 picture (3, height, width) in the format given by the file extension.

    Raises:
        UsageError: the picture is too large for the format.
    """
    with written_aside(path) as aside:
        try:
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(aside)
        except (ValueError, OSError) as error:
            size = picture.shape[2], picture.shape[1]
            if max(size) <= LARGEST.get(path.suffix.lower(), math.inf):
                raise
            raise UsageError(f"{path} cannot hold {size[0]} x {size[1]} pixels: use .png.") from error


def write_images(folder: Path, batches: Iterable[Tensor], data: RealData) -> None:
    """Write images (N, channels, height, width) as 00000.png, 00001.png, ... to a new folder, at their own size.

    Images with more than 8 bits or more than four channels are written as TIFFs of the data's depth.

    Raises:
        UsageError: the samples are not images, or the folder is not empty or is the current folder.
    """
    if data.value_range is None:
        raise UsageError(f"{folder} has no ending, which means a folder of images: for points give .png, .npz or .pt.")
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty: choose a new folder.")
    if folder.exists() and folder.samefile("."):
        raise UsageError(f"{folder} is the current folder, which cannot be replaced: choose another.")
    with written_aside(folder) as aside:
        aside.mkdir()
        deep = (in_depth(images, data.value_range, DEPTHS[data.depth]) for images in batches)
        for i, image in enumerate(image for images in deep for image in images.permute(0, 2, 3, 1).numpy()):
            if image.dtype == np.uint8 and image.shape[2] <= 4:
                # Pillow takes an array without a channel dimension as grayscale
                Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(aside / f"{i:05d}.png")
            else:
                write_tiff(aside / f"{i:05d}.tif", image)


def write_tiff(path: Path, pixels: np.ndarray) -> None:
    """Write pixels (height, width, channels) of any type as a TIFF; Pillow has no color of more than 8 bits.

    The file has one strip, and 1 is white. Channels after the first one or three are extra samples of unspecified
    meaning, except that the last of two or four is alpha.
    """
    height, width, channels = pixels.shape
    colors = 3 if channels >= 3 else 1
    extra = [0] * (channels - colors)
    if channels in (2, 4):
        extra[-1] = 2  # unassociated alpha
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    directory[TiffImagePlugin.IMAGEWIDTH], directory[TiffImagePlugin.IMAGELENGTH] = width, height
    directory[TiffImagePlugin.BITSPERSAMPLE] = (8 * pixels.itemsize,) * channels
    directory[TiffImagePlugin.SAMPLEFORMAT] = (3 if pixels.dtype.kind == "f" else 1,) * channels
    directory[TiffImagePlugin.COMPRESSION] = 1
    directory[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] = 2 if colors == 3 else 1
    directory[TiffImagePlugin.SAMPLESPERPIXEL] = channels
    if extra:
        directory[TiffImagePlugin.EXTRASAMPLES] = tuple(extra)
    directory[TiffImagePlugin.ROWSPERSTRIP] = height
    directory[TiffImagePlugin.STRIPBYTECOUNTS] = pixels.nbytes
    directory[TiffImagePlugin.STRIPOFFSETS] = 0  # from the directory's end
    with path.open("wb") as file:
        directory.save(file)
        file.write(np.ascontiguousarray(pixels).tobytes())


def write_gif(path: Path, frames: Iterable[Tensor], data: RealData) -> None:
    """Write frames (n, *sample_shape), each drawn as one picture, as an endless GIF."""
    images = [Image.fromarray(data.picture(Batch(samples)).permute(1, 2, 0).numpy()) for samples in frames]
    duration = round(1000 * SECONDS_PER_FRAME)
    with written_aside(path) as aside:
        images[0].save(aside, save_all=True, append_images=images[1:], duration=duration, loop=0)
