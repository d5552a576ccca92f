"""Any array of numbers: read without unpickling, scaled and back, a part held out, trained on, resumed and sampled."""

import csv
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from helpers import counts, load_script, trained

from gan_lightning.batch import Batch
from gan_lightning.checkpoints import load
from gan_lightning.commands.evaluate import Options, evaluate
from gan_lightning.data.arrays import ArrayData, read_arrays
from gan_lightning.data.scaling import Scaling, fitted
from gan_lightning.errors import UsageError
from gan_lightning.resumption import resume
from gan_lightning.training import train

NOISE = np.random.default_rng(0)
ROWS = NOISE.normal([1000.0, -3.0, 0.0], [50.0, 0.01, 1.0], (200, 3))
SMALL = ("data.batch_size=8", "data.rounds_per_epoch=4", "data.rounds_per_batch=2", "trainer.limit_val_batches=null")


def made(path: Path, batch_size: int = 8, **options: Any) -> ArrayData:
    """The data module after setup."""
    data = ArrayData(str(path), batch_size, **options)
    data.trainer = counts(critic_steps=1)
    data.setup()
    return data


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Rows of three columns and their classes."""
    path = tmp_path / "rows.npz"
    np.savez(path, x=ROWS, kind=np.where(ROWS[:, 2] > 0, "up", "down"))
    return path


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "uint16", "int32", "int64", "float32", "float64"])
@pytest.mark.parametrize("rule", ["range", "standard", "none"])
def test_values_come_back_in_their_type(dtype: str, rule: Any) -> None:
    largest = 2**15 if dtype == "int16" else 2**16
    values = {"b": NOISE.integers(0, 2, (50, 3)), "f": NOISE.normal(7, 3, (50, 3))}
    x = values.get(np.dtype(dtype).kind, NOISE.integers(0, min(largest, 256 if dtype == "uint8" else largest), (50, 3)))
    x = x.astype(dtype)
    scaling = fitted(x, rule)
    back = Scaling(**json.loads(json.dumps(scaling.state()))).undo(scaling(x)).numpy()
    assert back.dtype == x.dtype
    if x.dtype.kind == "f":
        assert np.abs(back - x).max() < np.ptp(x) / 65535
    else:
        assert np.array_equal(back, x)


def test_large_integers_keep_their_differences() -> None:
    """Which float32 alone would not hold."""
    seconds = 1_700_000_000 + NOISE.integers(0, 10_000, (50, 1))
    scaling = fitted(seconds, "standard")
    assert np.array_equal(scaling.undo(scaling(seconds)).numpy(), seconds)
    beyond = scaling.undo(torch.tensor([[1e30], [-1e30]])).flatten().tolist()
    assert beyond == [pytest.approx(2**63), -(2**63)]


def test_the_rules_are_what_they_say() -> None:
    scaled = fitted(ROWS, "standard")(ROWS).double().numpy()
    np.testing.assert_allclose(scaled, (ROWS - ROWS.mean(0)) / ROWS.std(0), atol=1e-5)
    for value in (7.0, 0.1, 0.7, 1e9 + 0.1, -1e-20, 0.0):  # whose mean is rounded
        constant = np.full((9000, 1), value)
        assert fitted(constant, "standard")(constant).abs().max() < 1e-6
    close = 1e15 + np.arange(100.0)[:, None]
    assert fitted(close, "standard")(close).double().std(correction=0).item() == pytest.approx(1.0, rel=1e-3)
    with pytest.raises(UsageError, match=r"^The data have values whose spread is inf: give values below 1e150\.$"):
        fitted(np.array([[1e200], [-1e200]]), "standard")
    scaled = fitted(ROWS, "range")(ROWS)
    assert (scaled.min(), scaled.max()) == (-1, 1)
    assert fitted(np.array([[5]], dtype=np.uint8), "range").limits == (0, 255)
    scaling = fitted(ROWS, "range", (-2000.0, 2000.0))
    assert scaling(np.array([[1000.0]])).item() == 0.5
    assert scaling.undo(torch.tensor([[3.0]])).item() == 2000
    with pytest.raises(UsageError, match=r"data.limits is \[0, 1\], but values are from -3\.\d+ to 1\d+"):
        fitted(ROWS, "range", (0.0, 1.0))


@pytest.mark.parametrize("ending", [".npy", ".npz", ".pt"])
def test_every_kind_of_file_is_read(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x{ending}"
    if ending == ".pt":
        torch.save(torch.from_numpy(ROWS), path)
    elif ending == ".npz":
        np.savez(path, samples=ROWS)
    else:
        np.save(path, ROWS)
    (found,) = read_arrays(path).values()
    assert np.array_equal(found, ROWS)
    torch.save({"x": torch.ones(4, 2, dtype=torch.bfloat16), "about": "ones"}, tmp_path / "y.pt")
    assert np.array_equal(read_arrays(tmp_path / "y.pt")["x"], np.ones((4, 2)))


class Harmful:
    def __reduce__(self) -> Any:
        return sys.exit, ("unpickled",)


@pytest.mark.parametrize("ending", [".npy", ".npz", ".pt"])
def test_nothing_is_unpickled(tmp_path: Path, ending: str) -> None:
    path, array = tmp_path / f"x{ending}", np.array([Harmful()], dtype=object)
    torch.save(Harmful(), path) if ending == ".pt" else (np.savez if ending == ".npz" else np.save)(path, array)
    with pytest.raises(UsageError, match=r"cannot be read as arrays of numbers without unpickling"):
        read_arrays(path)


@pytest.mark.parametrize(
    ("array", "options", "sentence"),
    [
        (np.ones((4, 3), complex), {}, "has values of type complex128: give integers or floating-point numbers."),
        (np.array([[1.0, np.nan]]), {}, "has values that are not finite"),
        (np.ones((4, 8, 8, 3)), {}, r"has shape \(4, 8, 8, 3\), channels last: give \(N, C, H, W\)"),
        (np.ones((4, 8, 8, 4)), {}, r"has shape \(4, 8, 8, 4\), channels last: give \(N, C, H, W\)"),
        (np.ones((4, 8, 8, 2)), {}, r"has shape \(4, 8, 8, 2\), channels last: give \(N, C, H, W\)"),
        (
            10**18 + np.arange(40).reshape(20, 2),
            {},
            r"contain whole numbers, up to 1000000000000000039, whose differences",
        ),
        (np.ones((2, 2, 2, 2, 2)), {}, r"has shape \(2, 2, 2, 2, 2\): give images"),
        (np.ones((0, 3)), {}, r"has shape \(0, 3\): give images"),
        (np.ones((4, 8, 8)), {"scaling": "standard"}, "data.scaling is standard, which is for rows, but .* has images"),
        (np.ones((4, 3)), {"limits": [0, 1]}, "data.limits needs data.scaling=range, which is standard"),
        (np.ones((4, 3)), {"key": "x"}, "data.key is x, but .* holds a single array, without a name"),
        (np.ones((4, 3)), {"labels": "y"}, "data.labels is y, but .* holds a single array, without a name"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(
    tmp_path: Path, array: np.ndarray, options: dict[str, Any], sentence: str
) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(UsageError, match=sentence):
        made(tmp_path / "x.npy", **options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, r"has the arrays x, kind: name the samples by data.key=NAME"),
        ({"key": "x", "labels": "z"}, "data.labels is z, but .* has the arrays x, kind: correct it."),
        ({"key": "kind", "labels": "x"}, r"x in .* has shape \(200, 3\) and type float64: classes are \(200,\)"),
        ({"key": "kind"}, "has values of type <U4"),
        ({"key": "x", "batch_size": 181}, "takes 181 samples .* has 180 after the held-out split: choose a smaller"),
    ],
)
def test_the_arrays_of_a_file_are_named(rows: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        made(rows, **options).check_size()
    with pytest.raises(UsageError, match=r"data.path=rows.csv has an unknown extension: give a file in .npy, "):
        ArrayData("rows.csv", 8)


def test_a_part_is_held_out_and_the_rest_is_trained_on(rows: Path) -> None:
    """The same for every seed; each sample with its own class, once in each pass."""
    data, other = (made(rows, batch_size=18, key="x", labels="kind", seed=seed) for seed in (0, 1))
    fetched = data.fetcher()(0, 10)
    trained_on, held_out = Batch(fetched.x.flatten(0, 3), fetched.y.flatten()), data.held_out_samples(1000)  # type: ignore[union-attr]
    assert (len(trained_on.x), len(held_out.x), data.validation_samples) == (180, 20, 20)
    together = torch.cat([trained_on.x, held_out.x])
    np.testing.assert_allclose(data.in_units(together).sort(0).values, np.sort(ROWS, 0), rtol=1e-5, atol=1e-6)
    for batch in (trained_on, held_out):
        assert torch.equal(batch.y, (data.in_units(batch.x)[:, 2] > 0).long())  # type: ignore[arg-type]
    assert data.class_names == ("down", "up")
    assert torch.equal(other.held_out_samples(1000).x, held_out.x)
    assert not torch.equal(other.fetcher()(0, 10).x, fetched.x)
    (validation,) = data.val_dataloader()
    assert torch.equal(validation.x, held_out.x)
    assert data.fingerprint == other.fingerprint
    assert data.fingerprint.startswith("180 samples in memory, digest ")
    assert made(rows, key="x", held_out_share=0.0).monitor is None


def run_script(script: ModuleType, *arguments: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script.__name__, *map(str, arguments)])
        script.main()


def all_of_a_run(path: Path, *options: str) -> tuple[Path, dict[str, np.ndarray]]:
    """Train 6 + 6 updates as 12 and evaluate; the run, and its samples in a .npz, made without the data."""
    straight = trained(path.parent / "straight", f"data.path={path}", *options, *SMALL)
    broken = trained(path.parent / "broken", f"data.path={path}", *options, *SMALL, "trainer.max_steps=6")
    train(resume(broken, ["trainer.max_steps=12"]), broken)
    a, b = load(straight), load(broken)
    assert a.loaded_step == b.loaded_step == 12
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name
    run_script(load_script("evaluate"), f"checkpoint={straight}", "floor=true")
    evaluation = json.loads((straight / "evaluation.json").read_text())
    logged = json.loads((straight / "metrics.json").read_text())
    assert all(logged[name] == value for name, value in evaluation["metrics"].items())
    assert evaluation["floor"]["val/energy"] >= 0
    return straight, sampled_without(path, straight)


def sampled_without(path: Path, run: Path) -> dict[str, np.ndarray]:
    """What sample.py writes of a run whose data have gone."""
    path.unlink()
    run_script(load_script("sample"), f"checkpoint={run}", f"out={path.parent / 'samples.npz'}", "n=9")
    with np.load(path.parent / "samples.npz") as file:
        return dict(file)


def test_rows_with_classes_are_trained_on_and_sampled_in_their_own_units(rows: Path) -> None:
    options = ("data=array", "data.key=x", "data.labels=kind", "model.conditional=true", "callbacks=default")
    run, samples = all_of_a_run(rows, *options)
    x, gan = samples["samples"], load(run)
    made = gan.sample(9, latents=torch.from_numpy(samples["latents"]))
    np.testing.assert_allclose(x, made.double().numpy() * ROWS.std(0) + ROWS.mean(0), rtol=1e-5)
    assert (x.dtype, samples["labels"].tolist()) == (np.float64, [0, 1] * 4 + [0])
    assert samples["class_names"].tolist() == ["down", "up"]
    run_script(load_script("sample"), f"checkpoint={run}", f"out={rows.parent / 'x.csv'}", "n=9", "classes=[up,down]")
    names, *written = csv.reader((rows.parent / "x.csv").read_text().splitlines())
    assert (names[-1], [row[-1] for row in written]) == ("class", ["up", "down"] * 4 + ["up"])
    run_script(load_script("sample"), f"checkpoint={run}", f"out={rows.parent / 'x.pt'}", "n=9")
    assert torch.load(rows.parent / "x.pt")["class_names"] == ["down", "up"]
    assert samples["value_range"].tolist() == [-math.inf, math.inf]
    assert {"val/energy", "val/sliced_wasserstein", "val/c2st"} <= set(json.loads((run / "metrics.json").read_text()))
    run_script(load_script("sample"), f"checkpoint={run}", f"out={rows.parent / 'x.npy'}", "n=9")
    assert np.array_equal(np.load(rows.parent / "x.npy"), x)
    run_script(load_script("export"), f"checkpoint={run}", f"out={rows.parent / 'g.pt2'}")
    extra = {"metadata.json": ""}
    torch.export.load(rows.parent / "g.pt2", extra_files=extra)
    described = json.loads(extra["metadata.json"])
    np.testing.assert_allclose(described["units"]["offset"], ROWS.mean(0))


@pytest.mark.parametrize(
    ("images", "values"),
    [
        (NOISE.normal(size=(60, 2, 6, 5)).astype(np.float32), None),
        (NOISE.integers(0, 65536, (60, 8, 8), dtype=np.uint16), None),
        (NOISE.integers(0, 256, (60, 3, 8, 8), dtype=np.uint8), [0, 255]),
    ],
    ids=["float32", "uint16", "uint8"],
)
def test_images_are_trained_on_and_sampled_in_their_own_values(tmp_path: Path, images: np.ndarray, values: Any) -> None:
    path = tmp_path / "x.npy"
    np.save(path, images)
    options = ("data=array", f"data.path={path}", "model=mlp", "model.generator.widths=[8]", *SMALL)
    samples = sampled_without(path, trained(tmp_path / "run", *options))
    x = samples["samples"]
    assert x.shape == (9, *(images[:1, None] if images.ndim == 3 else images).shape[1:])
    assert x.dtype == images.dtype
    low, high = values or (images.min(), images.max())
    assert samples["value_range"].tolist() == [pytest.approx(low), pytest.approx(high)]
    assert low <= x.min() < x.max() <= high


def test_an_array_of_images_of_any_shape_is_trained_on_measured_and_exported(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, NOISE.normal(size=(40, 4, 96, 64)).astype(np.float32))
    small = ("data.batch_size=4", "model.generator.width=2", "model.discriminator.width=2")
    run, samples = all_of_a_run(path, "data=array", "model=dcgan", "logger=none", *small)
    assert (samples["samples"].shape, samples["samples"].dtype) == ((9, 4, 96, 64), np.float32)
    run_script(load_script("export"), f"checkpoint={run}", f"out={tmp_path / 'g.pt2'}")  # which compares the two


def test_bytes_of_images_stay_bytes_in_memory(tmp_path: Path) -> None:
    images = NOISE.integers(0, 256, (20, 3, 4, 4), dtype=np.uint8)
    np.save(tmp_path / "x.npy", images)
    data = made(tmp_path / "x.npy", batch_size=2)
    assert data._training.x.dtype == torch.uint8
    assert torch.equal(data.in_units(data.held_out_samples(2).x), data._held_out.x)  # type: ignore[union-attr]
    assert data.fetcher()(0, 1).x.dtype == torch.float32


def test_changed_data_is_refused_or_read_in_the_units_that_were_trained_in(rows: Path) -> None:
    options = ("data=array", f"data.path={rows}", "data.key=x", *SMALL)
    run = trained(rows.parent / "run", *options, "trainer.max_steps=4")
    np.savez(rows, x=2 * ROWS)
    with pytest.raises(UsageError, match=r"rows.npz has changed: the run was trained on 180 samples in memory"):
        train(resume(run, ["trainer.max_steps=8"]), run)
    units = load(run).described["units"]
    train(resume(run, ["trainer.max_steps=8", "changed_data=accept"]), run)
    assert load(run).described["units"] == units
    np.savez(rows, x=np.tile(ROWS, 2))
    with pytest.raises(
        UsageError, match=r"^The data have samples of shape \(6,\), but the run was trained on samples of shape \(3,\):"
    ):
        train(resume(run, ["trainer.max_steps=12", "changed_data=accept"]), run)
    with pytest.raises(
        UsageError, match=r"rows\.npz has samples of shape \(6,\) and 0 classes, but the run was trained"
    ):
        evaluate(Options(run, n=20))
