"""scripts/sample.py against the loaded networks, the stream of latents and the pixels that it writes."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import programs
import pytest
import torch
from conftest import ROOT
from helpers import load_script, trained
from omegaconf import OmegaConf
from PIL import Image

from gan_lightning.batch import Batch
from gan_lightning.build import build_data
from gan_lightning.checkpoints import load
from gan_lightning.errors import UsageError
from gan_lightning.sampling import write_picture

SIDE = 16
MLP = [
    "model=mlp",
    "model.latent_size=6",
    "model.generator.widths=[32]",
    "model.discriminator.widths=[8]",
    "model.lr=0.02",
]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("sample")


def image_run(folder: Path, *overrides: str) -> Path:
    """A run on noise: what is drawn does not matter here."""
    pictures = folder / "pictures"
    pictures.mkdir()
    noise = np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(noise.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(pictures / f"{i}.png")
    data = ["data=image_folder", f"data.root={pictures}", f"data.size={SIDE}", f"data.cache={folder / 'cache'}"]
    return trained(folder / "run", *data, *MLP, *overrides)


@pytest.fixture(scope="module")
def gray(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gray images in [-1, 1] from a normal prior."""
    return image_run(tmp_path_factory.mktemp("gray"), "data.channels=1", "model.ema_decay=0.9")


@pytest.fixture(scope="module")
def color(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Color images in [0, 1] from a uniform prior, without an averaged generator."""
    options = ["data.range=unit", "model.generator.output=sigmoid", "prior=uniform", "model.ema_decay=0"]
    return image_run(tmp_path_factory.mktemp("color"), *options)


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("ring") / "run", "data=ring", "data.rounds_per_epoch=6", "callbacks=default")


def run(script: ModuleType, *arguments: object) -> None:
    """The script with these arguments, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sample.py", *map(str, arguments)])
        script.main()


def arrays(script: ModuleType, folder: Path, checkpoint: Path, *arguments: object) -> dict[str, np.ndarray]:
    """What the script writes to a .npz."""
    run(script, f"checkpoint={checkpoint}", f"out={folder / 'arrays.npz'}", *arguments)
    with np.load(folder / "arrays.npz") as file:
        return dict(file)


def evaluate(network: torch.nn.Module, latents: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return network.eval()(torch.from_numpy(latents)).numpy()


def pixels(samples: np.ndarray, low: float, high: float) -> np.ndarray:
    """(..., channels, height, width) as bytes, (..., height, width, channels)."""
    return np.moveaxis(np.rint(255 * (samples - low) / (high - low)), -3, -1).astype(np.uint8)


def tiles(picture: Path, rows: int, columns: int) -> np.ndarray:
    """The images of a grid with borders of 2 pixels, (rows, columns, height, width, 3), at their own size."""
    grid = np.asarray(Image.open(picture))
    factor = grid.shape[1] // (columns * (SIDE + 2) + 2)
    assert grid.shape == (factor * (rows * (SIDE + 2) + 2), factor * (columns * (SIDE + 2) + 2), 3)
    inner = grid[::factor, ::factor][2:, 2:].reshape(rows, SIDE + 2, columns, SIDE + 2, 3)
    return inner[:, :SIDE, :, :SIDE].transpose(0, 2, 1, 3, 4)


# ----------------------------------------------------------------------------------------------------- samples


def test_samples_are_the_averaged_generators_of_the_seeds_latents(
    script: ModuleType, gray: Path, tmp_path: Path
) -> None:
    written = arrays(script, tmp_path, gray, "n=37", "seed=5")
    assert set(written) == {"samples", "latents", "seed", "value_range"}
    latents = torch.randn(37, 6, generator=torch.Generator().manual_seed(5)).numpy()
    np.testing.assert_array_equal(written["latents"], latents)
    gan = load(gray)
    assert gan.average is not None
    averaged, raw = (evaluate(network, latents) for network in (gan.average.network["generator"], gan.game.generator))
    assert written["samples"].dtype == np.float32
    assert written["samples"].shape == (37, 1, SIDE, SIDE)
    np.testing.assert_allclose(written["samples"], averaged, atol=1e-6)
    assert np.abs(averaged - raw).max() > 1e-2
    assert (written["seed"], written["value_range"].tolist()) == (5, [-1.0, 1.0])
    raw_written = arrays(script, tmp_path, gray, "n=37", "seed=5", "weights=raw")
    np.testing.assert_allclose(raw_written["samples"], raw, atol=1e-6)


def test_the_batch_size_does_not_matter(script: ModuleType, gray: Path, tmp_path: Path) -> None:
    whole, cut = (arrays(script, tmp_path, gray, "n=50", f"batch_size={size}") for size in (500, 7))
    np.testing.assert_array_equal(whole["latents"], cut["latents"])
    np.testing.assert_allclose(whole["samples"], cut["samples"], atol=1e-5)
    other = arrays(script, tmp_path, gray, "n=50", "seed=1")
    assert np.abs(whole["samples"] - other["samples"]).mean() > 1e-2


def test_pt_holds_what_npz_holds(script: ModuleType, gray: Path, tmp_path: Path) -> None:
    expected = arrays(script, tmp_path, gray, "n=5")
    run(script, f"checkpoint={gray}", "n=5", f"out={tmp_path / 'arrays.pt'}")
    written = torch.load(tmp_path / "arrays.pt", weights_only=True)
    assert set(written) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(np.asarray(written[name]), value)


def test_two_lines_in_a_notebook(script: ModuleType, gray: Path, tmp_path: Path) -> None:
    gan = load(gray)
    images = gan.sample(16, torch.Generator().manual_seed(3))
    np.testing.assert_allclose(images, arrays(script, tmp_path, gray, "n=16", "seed=3")["samples"], atol=1e-6)


@pytest.mark.parametrize("kind", ["gray", "color"])
def test_a_grid_has_the_samples_pixels(
    script: ModuleType, request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    checkpoint = request.getfixturevalue(kind)
    written = arrays(script, tmp_path, checkpoint, "n=9")
    run(script, f"checkpoint={checkpoint}", "n=9", f"out={tmp_path / 'deep' / 'grid.png'}")
    expected = pixels(written["samples"], *written["value_range"])
    assert written["value_range"].tolist() == {"gray": [-1.0, 1.0], "color": [0.0, 1.0]}[kind]
    found = tiles(tmp_path / "deep" / "grid.png", 3, 3).reshape(9, SIDE, SIDE, 3)
    assert np.abs(found.astype(int) - expected).max() <= 1  # torchvision rounds the range differently


@pytest.mark.parametrize("kind", ["gray", "color"])
def test_a_folder_has_single_images(
    script: ModuleType, request: pytest.FixtureRequest, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = request.getfixturevalue(kind)
    written = arrays(script, tmp_path, checkpoint, "n=12")
    folder = tmp_path / "images"
    run(script, f"checkpoint={checkpoint}", "n=12", "batch_size=5", f"out={folder}")
    assert sorted(path.name for path in folder.iterdir()) == [f"{i:05d}.png" for i in range(12)]
    for i, expected in enumerate(pixels(written["samples"], *written["value_range"])):
        found = np.asarray(Image.open(folder / f"{i:05d}.png"))
        assert found.shape == ((SIDE, SIDE) if kind == "gray" else (SIDE, SIDE, 3))
        assert np.abs(found.reshape(expected.shape).astype(int) - expected).max() <= 1
    capsys.readouterr()
    with pytest.raises(SystemExit, match=f"Error: {folder} is not empty: choose a new folder."):
        run(script, f"checkpoint={checkpoint}", f"out={folder}")


def test_a_folder_of_images_is_whole_or_not_there(
    script: ModuleType, gray: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tmp_path / "images"
    with monkeypatch.context() as patch:
        saved: list[Path] = []

        def save(image: Image.Image, path: Path) -> None:
            saved.append(path)
            path.write_bytes(b"half")
            if len(saved) == 3:
                raise OSError(28, "No space left on device")

        patch.setattr(Image.Image, "save", save)
        with pytest.raises(SystemExit, match=r"^Error: .*images cannot be written: .*No space left"):
            run(script, f"checkpoint={gray}", "n=5", f"out={images}")
    assert not list(tmp_path.iterdir())
    images.mkdir()
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="is the current folder"):  # noqa: PT012
        patch.chdir(images)
        run(script, f"checkpoint={gray}", "out=.")
    run(script, f"checkpoint={gray}", "n=5", f"out={images}")
    assert len(list(images.iterdir())) == 5


@pytest.mark.parametrize("name", ["a.PNG", "a.jpg", "a.JPEG", "a.webp"])
def test_a_picture_is_of_the_format_of_its_ending(script: ModuleType, gray: Path, tmp_path: Path, name: str) -> None:
    for out in ("a.png", name):
        run(script, f"checkpoint={gray}", "n=9", f"out={tmp_path / out}")
    with Image.open(tmp_path / name) as found, Image.open(tmp_path / "a.png") as expected:
        assert found.format == {".jpg": "JPEG", ".jpeg": "JPEG"}.get(Path(name).suffix.lower(), name[2:].upper())
        assert np.abs(np.asarray(found.convert("RGB"), float) - np.asarray(expected)).mean() < 8


@pytest.mark.parametrize("name", ["a.NPZ", "a.PT"])
def test_arrays_may_end_in_capitals(script: ModuleType, gray: Path, tmp_path: Path, name: str) -> None:
    run(script, f"checkpoint={gray}", "n=5", f"out={tmp_path / name}")
    found = np.load(tmp_path / name) if name == "a.NPZ" else torch.load(tmp_path / name, weights_only=True)
    assert found["samples"].shape == (5, 1, SIDE, SIDE)


def test_a_format_without_pictures_as_large_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a\.webp cannot hold 16384 x 1 pixels: use \.png\."):
        write_picture(tmp_path / "a.webp", torch.zeros(3, 1, 16384, dtype=torch.uint8))
    assert not list(tmp_path.iterdir())


def test_points_are_drawn_as_in_training(script: ModuleType, ring: Path, tmp_path: Path) -> None:
    written = arrays(script, tmp_path, ring)
    assert written["samples"].shape == (10_000, 2)
    assert written["value_range"].tolist() == [-np.inf, np.inf]
    run(script, f"checkpoint={ring}", f"out={tmp_path / 'points.png'}")
    gan = load(ring)
    expected = build_data(OmegaConf.create(gan.config)).picture(Batch(torch.from_numpy(written["samples"])))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "points.png")), expected.permute(1, 2, 0))
    with pytest.raises(SystemExit, match=r"for points give \.png, \.npz or \.pt"):
        run(script, f"checkpoint={ring}", f"out={tmp_path / 'folder'}")
    assert not (tmp_path / "folder").exists()


def test_without_an_average_the_raw_generator_is_announced(
    script: ModuleType, color: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = arrays(script, tmp_path, color, "n=5")
    note, summary = capsys.readouterr().out.splitlines()
    assert note == f"{color} has no averaged generator: these are samples of the raw one."
    assert summary == f"5 samples of step 12, raw generator, in {tmp_path / 'arrays.npz'}"
    np.testing.assert_allclose(written["samples"], evaluate(load(color).game.generator, written["latents"]), atol=1e-6)
    arrays(script, tmp_path, color, "n=5", "weights=raw")
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_truncation(script: ModuleType, gray: Path, color: Path, tmp_path: Path) -> None:
    latents = [arrays(script, tmp_path, gray, "n=500", *t)["latents"] for t in ([], ["truncation=0.7"])]
    inside = np.abs(latents[0]) <= 0.7
    np.testing.assert_array_equal(latents[0][inside], latents[1][inside])
    assert 0.6 < np.abs(latents[1]).max() <= 0.7
    with pytest.raises(SystemExit, match=r"Error: truncation=0\.7 is for a normal prior"):
        run(script, f"checkpoint={color}", "truncation=0.7", f"out={tmp_path / 'x.png'}")
    assert not (tmp_path / "x.png").exists()


# ----------------------------------------------------------------------------------------- ways through latents


def test_interpolations_go_along_arcs_from_end_to_end(script: ModuleType, gray: Path, tmp_path: Path) -> None:
    written = arrays(script, tmp_path, gray, "mode=interpolation", "n=3", "frames=5", "seed=2")
    assert written["samples"].shape == (3, 5, 1, SIDE, SIDE)
    ends = torch.randn(6, 6, generator=torch.Generator().manual_seed(2)).double().numpy()
    for latents, a, b in zip(written["latents"], ends[:3], ends[3:], strict=True):
        angle = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        for t, latent in zip(np.linspace(0, 1, 5), latents, strict=True):
            expected = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
            np.testing.assert_allclose(latent, expected, atol=1e-6)
    gan = load(gray)
    expected = evaluate(gan, written["latents"].reshape(15, 6)).reshape(3, 5, 1, SIDE, SIDE)
    np.testing.assert_allclose(written["samples"], expected, atol=1e-6)

    run(script, f"checkpoint={gray}", "mode=interpolation", "n=3", "frames=5", "seed=2", f"out={tmp_path / 'i.png'}")
    found = tiles(tmp_path / "i.png", 3, 5)
    assert np.abs(found.astype(int) - pixels(written["samples"], -1, 1)).max() <= 1


def test_interpolations_of_another_prior_are_straight(script: ModuleType, color: Path, tmp_path: Path) -> None:
    latents = arrays(script, tmp_path, color, "mode=interpolation", "n=3", "frames=5")["latents"]
    np.testing.assert_allclose(latents, np.linspace(latents[:, 0], latents[:, -1], 5, axis=1), atol=1e-6)


def gif(path: Path) -> np.ndarray:
    """The frames, (frames, height, width, 3)."""
    frames = []
    with Image.open(path) as film:
        assert film.info["loop"] == 0  # endless
        for i in range(film.n_frames):
            film.seek(i)
            frames.append(np.asarray(film.convert("RGB")).astype(float))
    return np.stack(frames)


def test_a_film_of_interpolations_goes_there_and_back(script: ModuleType, gray: Path, tmp_path: Path) -> None:
    arguments = ("mode=interpolation", "n=4", "frames=5")
    samples = torch.from_numpy(arrays(script, tmp_path, gray, *arguments)["samples"])
    run(script, f"checkpoint={gray}", *arguments, f"out={tmp_path / 'i.gif'}")
    frames = gif(tmp_path / "i.gif")
    data = build_data(OmegaConf.create(load(gray).config))
    expected = np.stack([data.picture(Batch(samples[:, i])).permute(1, 2, 0) for i in (0, 1, 2, 3, 4, 3, 2, 1)]).astype(
        float
    )
    assert frames.shape == expected.shape
    assert np.abs(frames - expected).max() <= 2  # gray levels fit a palette


def test_a_film_of_a_walk_is_closed(script: ModuleType, gray: Path, tmp_path: Path) -> None:
    arguments = ("mode=walk", "n=3", "frames=5")
    written = arrays(script, tmp_path, gray, *arguments)
    assert written["latents"].shape == (3, 4, 6)
    visited = torch.randn(3, 6, generator=torch.Generator().manual_seed(0)).numpy()
    np.testing.assert_allclose(written["latents"][:, 0], visited, atol=1e-6)
    run(script, f"checkpoint={gray}", *arguments, f"out={tmp_path / 'w.gif'}")
    frames = gif(tmp_path / "w.gif")
    data = build_data(OmegaConf.create(load(gray).config))
    samples = torch.from_numpy(written["samples"]).flatten(0, 1)
    expected = np.stack([data.picture(Batch(sample[None])).permute(1, 2, 0) for sample in samples]).astype(float)
    assert frames.shape == expected.shape
    assert np.abs(frames - expected).max() <= 2


# ------------------------------------------------------------------------------------------ as a user meets it


def command(name: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A script in a process of its own, which says at its end what it imported that is slow."""
    return programs.run_quickly(ROOT / "scripts" / name, *arguments, cwd=cwd)


def test_the_default_is_a_picture_here(gray: Path, tmp_path: Path) -> None:
    last = gray / "checkpoints" / "last.ckpt"
    result = programs.run(ROOT / "scripts" / "sample.py", f"checkpoint={last}", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[0] == "64 samples of step 12, averaged generator, in samples.png"
    assert tiles(tmp_path / "samples.png", 8, 8).std() > 0


REFUSED = [
    (["n=0"], "n is 0: give a whole number, at least 1."),
    (["mode=walk", "frames=1"], "frames is 1: give at least 2, for the two ends."),
    (["frames=8"], "frames is 8, but mode=samples has none: leave it out, or give another mode."),
    (["cache=."], "cache is ., but there are no inputs to cache: leave it out."),
    (["seed=-1"], "seed is -1: give a whole number from 0 to 4294967295."),
    (["batch_size=0"], "batch_size is 0: give a whole number, at least 1."),
    (["truncation=0"], "truncation is 0.0: give a number above 0."),
    (["truncation=nan"], "truncation is nan: give a number above 0."),
    (["mode=walk", "n=1"], "n is 1: a walk visits at least 2 latents."),
    (
        ["out=x.bmp"],
        "out is x.bmp: end it in .png, .jpg, .jpeg, .webp, .gif, .npz, .npy, .csv, .pt, or nothing for a folder.",
    ),
    (["out=x.GIF"], "out is x.GIF: an animation needs mode=interpolation, mode=walk or mode=classes."),
    (["out=x.gif"], "out is x.gif: an animation needs mode=interpolation, mode=walk or mode=classes."),
    (["mode=run"], "mode is 'run': give one of samples, interpolation, walk, classes."),
    (["weights=best"], "weights is 'best': give one of average, raw."),
    (["checkpoint=nowhere"], programs.NOWHERE),
]


@pytest.mark.parametrize(("arguments", "sentence"), REFUSED, ids=[" ".join(a) for a, _ in REFUSED])
def test_what_cannot_be_used_is_one_sentence_without_torch(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    result = command("sample.py", f"checkpoint={tmp_path}", *arguments, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (1, f"Error: {sentence}\n")
    assert result.stdout == "imported:\n"
    assert not list(tmp_path.iterdir())


LATE = [
    (["checkpoint=."], "checkpoints/last.ckpt does not exist: give a checkpoint or the folder of a run."),
    (["device=moon"], "device=moon cannot be used ("),
    (["device=meta"], "device=meta cannot be used ("),
    (["out=file/x.png"], "file/x.png cannot be written: "),
]


@pytest.mark.parametrize(("arguments", "sentence"), LATE, ids=[a[0] for a, _ in LATE])
def test_what_shows_only_later_is_one_sentence(
    script: ModuleType, gray: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as ended:
        run(script, f"checkpoint={gray}", *arguments)
    assert isinstance(ended.value.code, str)
    assert ended.value.code.startswith(f"Error: {sentence}")
    assert "\n" not in ended.value.code
