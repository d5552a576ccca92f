"""Images of other shapes and depths than the field's sets: trained on, gone on with, sampled, measured, exported."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import counts, load_script, trained
from PIL import Image
from torch import Tensor

from gan_lightning import resumption, training
from gan_lightning.checkpoints import load
from gan_lightning.data.decode import read_image
from gan_lightning.data.folder import ImageFolder
from gan_lightning.metrics import features
from gan_lightning.pixels import from_bytes
from gan_lightning.sampling import write_images

RANDOM = np.random.default_rng(0)


def sixteen_bits(path: Path) -> None:
    Image.fromarray(RANDOM.integers(0, 65536, (20, 20)).astype(np.uint16)).save(path.with_suffix(".tif"))


def floats(path: Path) -> None:
    Image.fromarray(RANDOM.random((20, 20), dtype=np.float32)).save(path.with_suffix(".tif"))


def tall_color(path: Path) -> None:
    Image.fromarray(RANDOM.integers(0, 256, (256, 64, 3), dtype=np.uint8)).save(path.with_suffix(".png"))


def two_channels(path: Path) -> None:
    Image.fromarray(RANDOM.integers(0, 256, (18, 26, 2), dtype=np.uint8)).save(path.with_suffix(".png"))


# what writes a file, the shape, its depth and the overrides
KINDS: dict[str, tuple[Callable[[Path], None], tuple[int, ...], Any, list[str]]] = {
    "16-bit TIFFs": (sixteen_bits, (1, 20, 20), 16, ["data.size=20", "data.channels=1", "data.depth=16"]),
    "float TIFFs": (floats, (1, 20, 20), "float", ["data.size=20", "data.channels=1", "data.depth=float"]),
    "256 x 64 RGB": (tall_color, (3, 256, 64), 8, ["data.size=[256,64]", "model=resnet"]),
    "2 channels": (two_channels, (2, 18, 26), 8, ["data.size=[18,26]", "data.channels=2"]),
}


WHITE = {8: 255, 16: 65535, "float": 1}


def write_folders(root: Path, write: Callable[[Path], None]) -> None:
    """Ten images to train on and ten held-out ones, of two classes."""
    for part in ("train", "held_out"):
        for i in range(10):
            folder = root / part / "ab"[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            write(folder / str(i))


def run_script(name: str, *arguments: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        load_script(name).main()


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    write, shape, depth, overrides = KINDS[kind]
    monkeypatch.setattr(features, "UPDATES", 3)
    monkeypatch.setattr(features, "BATCH_SIZE", 8)
    write_folders(tmp_path, write)
    options = [
        *("data=image_folder", f"data.root={tmp_path / 'train'}", f"data.held_out={tmp_path / 'held_out'}"),
        *(f"data.cache={tmp_path / 'cache'}", "data.batch_size=4", "model.ema_decay=0.5", "callbacks.samples.n=4"),
        *("model=dcgan", *overrides, "model.generator.width=2", "model.discriminator.width=2"),
    ]
    whole, part = trained(tmp_path / "whole", *options, "trainer.max_steps=4"), tmp_path / "part"
    trained(part, *options, "trainer.max_steps=2")
    training.train(resumption.resume(part, ["trainer.max_steps=4"]), part)
    expected, weights = (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in (whole, part)
    )
    assert expected.keys() == weights.keys()
    assert all(torch.equal(weights[name], value) for name, value in expected.items())

    run_script("evaluate", f"checkpoint={whole}")
    result = json.loads((whole / "evaluation.json").read_text())
    assert result["n"] == 10
    assert np.isfinite(result["metrics"]["val/fid"])

    shutil.rmtree(tmp_path / "train")  # what has been trained needs no images to be sampled
    run_script("sample", f"checkpoint={whole}", "n=3", f"out={tmp_path / 'samples'}")
    samples = load(whole).sample(3, torch.Generator().manual_seed(0))
    assert samples.shape == (3, *shape)
    files = sorted((tmp_path / "samples").iterdir())
    assert [file.name for file in files] == [f"0000{i}.{'png' if depth == 8 else 'tif'}" for i in range(3)]
    white = WHITE[depth]
    for file, sample in zip(files, samples, strict=True):
        found = read_image(file, shape, depth=depth).double() / white
        assert (found - (sample.double() + 1) / 2).abs().max() < (1e-6 if depth == "float" else 0.51 / white)
    run_script("export", f"checkpoint={whole}", f"out={tmp_path / 'generator.pt2'}")  # which compares the two
    assert (tmp_path / "generator.pt2").exists()


# -------------------------------------------------------------------------------------------------- files of samples

TYPES = {8: np.uint8, 16: np.uint16, "float": np.float32}


def strip_of(path: Path, kind: type, shape: tuple[int, ...]) -> np.ndarray:
    """The samples of an uncompressed TIFF, which lie at its end, (height, width, channels)."""
    count = int(np.prod(shape)) * np.dtype(kind).itemsize
    channels, height, width = shape
    return np.frombuffer(path.read_bytes()[-count:], kind).reshape(height, width, channels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("depth", [8, 16, "float"])
def test_files_have_the_depth_and_the_channels_of_the_data(tmp_path: Path, depth: Any, channels: int) -> None:
    shape = (channels, 6, 9)
    samples: Tensor = 2.2 * torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)) - 1.1
    data: Any = SimpleNamespace(value_range=(-1.0, 1.0), depth=depth)
    write_images(tmp_path / "samples", [samples], data)
    unit = ((samples.double() + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    for i, expected in enumerate(unit):
        path = next((tmp_path / "samples").glob(f"{i:05d}.*"))
        assert path.suffix == (".png" if depth == 8 and channels < 5 else ".tif")
        if path.suffix == ".png":
            with Image.open(path) as image:
                found = np.asarray(image).reshape(6, 9, channels)
        else:
            found = strip_of(path, TYPES[depth], shape)
        if depth == "float":
            assert np.abs(found - expected).max() < 1e-6
        else:
            white = 2**depth - 1
            levels = ((samples[i].permute(1, 2, 0) + 1) * (white / 2)).round().clamp(0, white)
            assert np.array_equal(found, levels.numpy())


@pytest.mark.parametrize(("depth", "values"), [(16, sixteen_bits), ("float", floats)])
def test_deep_pictures_are_written_as_they_were_read(
    tmp_path: Path, depth: Any, values: Callable[[Path], None]
) -> None:
    """From the file through what networks see and back: within 1/65535 in floats, exactly in whole numbers."""
    (tmp_path / "images").mkdir()
    for i in range(4):
        values(tmp_path / "images" / str(i))
    data = ImageFolder(str(tmp_path / "images"), 2, 20, channels=1, depth=depth, cache=str(tmp_path / "cache"))
    data.trainer = counts(critic_steps=1)
    data.setup()
    write_images(tmp_path / "written", [from_bytes(data.images, data.value_range)], data)
    for i in range(4):
        paths = tmp_path / "images" / f"{i}.tif", tmp_path / "written" / f"{i:05d}.tif"
        before, after = (strip_of(path, TYPES[depth], (1, 20, 20)).astype(float) for path in paths)
        assert np.abs(before - after).max() <= (1 / 65535 if depth == "float" else 0)


@pytest.mark.parametrize(
    ("depth", "channels", "mode"),
    [(16, 1, "I;16"), (16, 3, "RGB"), (16, 4, "RGBA"), ("float", 1, "F")],
)
def test_pillow_knows_the_tiffs_that_it_has_modes_for(tmp_path: Path, depth: Any, channels: int, mode: str) -> None:
    samples = torch.rand(1, channels, 6, 9, generator=torch.Generator().manual_seed(0))
    data: Any = SimpleNamespace(value_range=(0.0, 1.0), depth=depth)
    write_images(tmp_path / "samples", [samples], data)
    path = tmp_path / "samples" / "00000.tif"
    with Image.open(path) as image:
        assert (image.mode, image.size) == (mode, (9, 6))
    found = read_image(path, (channels, 6, 9), depth=depth).double()
    assert (found / (65535 if depth == 16 else 1) - samples[0]).abs().max() < 1e-5
