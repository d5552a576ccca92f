"""What all scripts share, and those of the tutorials: their options, and their figures against the formulas."""

import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import programs
import pytest
import torch
from conftest import ROOT
from helpers import load_script, trained
from PIL import Image
from scipy.special import logsumexp
from scipy.stats import kstest, norm
from test_configs import write_mnist
from test_sample import command

from gan_lightning.checkpoints import load
from gan_lightning.options import PICTURES

SCRIPTS = sorted(path.name for path in (ROOT / "scripts").glob("*.py") if path.name != "loops.py")
ODD = "runs [a,b]=1, 'x' \"y\" #~ é"


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_shows_the_command_and_needs_no_torch(tmp_path: Path, name: str) -> None:
    result = command(name, "--help", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"    python scripts/{name} " in result.stdout
    assert result.stdout.endswith("imported:\n")


@pytest.mark.parametrize("words", ["train.py --help", "train.py --dry-run", "train.py trainer.max_steps=4"])
def test_a_reader_that_leaves_does_not_stop_a_program(words: str, tmp_path: Path) -> None:
    """As in ``python train.py | head -1``."""
    script, option = words.split()
    reader, writer = os.pipe()
    os.close(reader)
    run = [sys.executable, str(ROOT / script), option, "hydra.run.dir=run"]
    environment = programs.environment() | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(run, stdout=writer, stderr=subprocess.PIPE, cwd=tmp_path, env=environment, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert (tmp_path / "run" / "metrics.json").exists() == ("max_steps" in option)


REFUSED = [
    ("report.py", ["multirun"], "multirun is not an option: give name=value, such as runs=multirun."),
    ("report.py", ["runs=.", "--csv", "a.csv"], "--csv is not an option: give name=value, such as csv=VALUE."),
    ("report.py", [], "runs is not set: give runs=VALUE, which --help explains."),
    ("report.py", ["runs="], "runs is '': give a path."),
    (
        "report.py",
        ["runs=."],
        "no run with metrics.json below .: give a folder of runs processed by train.py.",
    ),
    ("report.py", ["runs=nowhere"], "nowhere is not a folder: give a folder of runs, such as multirun/TIME."),
    ("parzen.py", ["checkpoint=nowhere"], programs.NOWHERE),
    ("parzen.py", ["checkpoint=.", "n=0"], "n is 0: give a whole number, at least 1."),
    ("parzen.py", ["checkpoint=.", "seed=-1"], "seed is -1: give a whole number from 0 to 4294967295."),
    ("linear_floor.py", ["seed=-1"], "seed is -1: give a whole number from 0 to 4294967295."),
    ("linear_floor.py", ["--seed", "1"], "--seed is not an option: give name=value, such as seed=VALUE."),
    ("known_table.py", [], "Give either out=FILE, to write rows, or samples=FILE, to compare rows."),
    ("known_table.py", ["samples=a.csv"], "a.csv is not a file: give a CSV file of samples."),
    *(
        (
            name,
            ["out=a.gif"],
            f"a.gif is not a picture format that can be written: end its name in {', '.join(PICTURES)}.",
        )
        for name in ("dynamics.py", "vanishing_gradient.py")
    ),
]


@pytest.mark.parametrize(("name", "arguments", "sentence"), REFUSED)
def test_what_cannot_be_used_is_one_sentence_without_torch(
    tmp_path: Path, name: str, arguments: list[str], sentence: str
) -> None:
    result = command(name, *arguments, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (1, f"Error: {sentence}\n")
    assert result.stdout == "imported:\n"
    assert not list(tmp_path.iterdir())


STOPPED = """
import os, runpy, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), int(sys.argv[2]))

sys.meta_path.insert(0, Finder())
runpy.run_path(sys.argv[3], run_name="__main__")
"""


def stop_when_saved() -> None:
    """From now on a signal follows each picture."""
    save = Image.Image.save

    def stopped(image: Image.Image, *args: Any, **kwargs: Any) -> None:
        save(image, *args, **kwargs)
        os.kill(os.getpid(), signal.SIGTERM)

    Image.Image.save = stopped  # type: ignore[method-assign]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_signal_while_a_script_starts_is_one_line(tmp_path: Path, name: str, signum: signal.Signals) -> None:
    code = [sys.executable, "-c", STOPPED, "omegaconf", str(int(signum)), str(ROOT / "scripts" / name)]
    ended = subprocess.run(code, cwd=tmp_path, capture_output=True, text=True, check=False)
    line = f"Stopped by {'Ctrl-C' if signum == signal.SIGINT else signum.name}.\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (128 + signum, "", line)


@pytest.mark.parametrize("out", ["a.png", "folder"])
def test_a_signal_in_the_middle_of_writing_leaves_no_half(tmp_path: Path, out: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 16, 16), dtype=np.uint8)
    (tmp_path / "pictures").mkdir()
    for i, image in enumerate(noise):
        Image.fromarray(image).save(tmp_path / "pictures" / f"{i}.png")
    data = ["data=image_folder", f"data.root={tmp_path / 'pictures'}", "data.size=16", "data.channels=1"]
    checkpoint = trained(tmp_path / "run", "model=mlp", *data)
    options = [f"checkpoint={checkpoint}", "n=4", f"out={out}"]
    ended = programs.run(ROOT / "scripts" / "sample.py", *options, cwd=tmp_path, before=stop_when_saved)
    assert (ended.returncode, ended.stderr) == (143, "Stopped by SIGTERM.\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures", "run"]


def run(script: ModuleType, *arguments: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["script.py", *arguments])
        script.main()


# ------------------------------------------------------------------------------------------------------- pictures


def test_the_dynamics_are_drawn_where_they_were_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("dynamics")
    monkeypatch.setattr(script, "STEPS", 60)
    run(script, f"out={tmp_path / ODD}.png")
    assert [path.name for path in tmp_path.iterdir()] == [f"{ODD}.png"]
    with Image.open(tmp_path / f"{ODD}.png") as picture:
        assert picture.size == (1100, 1400)
    assert capsys.readouterr().out == f"{tmp_path / ODD}.png\n"


def test_the_gradient_vanishes_under_the_minimax_loss_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("vanishing_gradient")
    monkeypatch.setattr(script, "UPDATES", 60)
    run(script, f"out={tmp_path / 'a.SVG'}")
    assert [path.name for path in tmp_path.iterdir()] == ["a.SVG"]
    line, place = capsys.readouterr().out.splitlines()
    assert place == str(tmp_path / "a.SVG")
    d, minimax, non_saturating = map(float, re.findall(r" (\d[\d.e-]*)", line))
    # d/dl log(1 - D) = -D and d/dl -log D = -(1 - D), for samples on which D hardly differs
    assert d < 0.2
    assert minimax / non_saturating == pytest.approx(d / (1 - d), rel=0.2)


def test_a_picture_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    script = load_script("dynamics")
    monkeypatch.setattr(script, "STEPS", 60)
    with pytest.raises(SystemExit, match=r"^Error: .*file/a\.png cannot be written: .*\.$"):
        run(script, f"out={tmp_path / 'file' / 'a.png'}")


# -------------------------------------------------------------------------------------------------------- numbers


def test_the_floor_is_one_that_no_layer_reaches_and_some_layer_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against scipy's distances of random layers, none of which may be nearer."""
    script = load_script("linear_floor")
    for name, value in {"SAMPLES": 500, "STARTS": 2, "ITERATIONS": 400}.items():
        monkeypatch.setattr(script, name, value)
    ks, w1 = script.floors(0)
    torch.manual_seed(0)
    noise = torch.rand(500, 10, dtype=torch.double).numpy()
    exact, layers = norm.ppf((np.arange(500) + 0.5) / 500), np.random.default_rng(0)
    for _ in range(50):
        h = noise @ layers.normal(size=10) * 3 + layers.normal()
        x = np.sort(np.where(h > 0, h, 0.01 * h))
        assert ks < kstest(x, norm.cdf).statistic
        assert w1 < np.abs(x - exact).mean()
    assert 0.15 < ks < 0.3  # 0.231 with all of the search
    assert 0.3 < w1 < 0.5


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of an odd name with noise in MNIST's files, in MNIST's place, and a run on it."""
    folder = tmp_path_factory.mktemp("digits")
    write_mnist(folder)
    small = ["model.generator.widths=[8]", "model.discriminator.widths=[8]"]
    trained(folder / "run", "model=mlp", "data=mnist", f"data.root={folder}", *small)
    return folder.rename(folder.parent / ODD)


def test_nats_are_those_of_the_written_out_mixture(digits: Path) -> None:
    script = load_script("parzen")
    checkpoint = digits / "run"
    nats, sigma = script.log_likelihoods(script.Options(checkpoint, n=1200, seed=3, root=digits))
    noise = torch.Generator().manual_seed(3)
    gan, (low, high) = load(checkpoint), (-1, 1)
    samples = torch.cat([gan.sample(1000, noise), gan.sample(200, noise)]).flatten(1).double().numpy()
    raw = (digits / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()[16:]
    images = np.frombuffer(raw, dtype=np.uint8).reshape(512, 784) / 255
    assert len(nats) == 512
    for value, image in zip(nats[:5].tolist(), images, strict=False):
        squares = ((image - (samples - low) / (high - low)) ** 2).sum(1)
        expected = logsumexp(-squares / (2 * sigma**2)) - math.log(1200) - 392 * math.log(2 * math.pi * sigma**2)
        assert value == pytest.approx(expected, rel=1e-4)


def test_parzen_prints_mean_error_and_width(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = load_script("parzen")
    run(script, f"checkpoint={digits / 'run'}", f"root={digits}", "n=50")
    nats, sigma = script.log_likelihoods(script.Options(digits / "run", n=50, root=digits))
    values = nats.double().numpy()
    error = values.std(ddof=1) / len(values) ** 0.5
    assert capsys.readouterr().out == f"{values.mean():.1f} +- {error:.1f} nats, sigma {sigma:.3f}, 50 samples\n"


def test_what_parzen_cannot_measure_is_one_sentence(digits: Path, tmp_path: Path) -> None:
    script = load_script("parzen")
    trained(tmp_path / "ring", "data=ring", "data.rounds_per_epoch=6")
    with pytest.raises(SystemExit, match=r"^Error: .*ring was not trained on data=mnist: give a run on MNIST\.$"):
        run(script, f"checkpoint={tmp_path / 'ring'}")
    np.save(tmp_path / "x.npy", np.zeros((60, 28, 28), np.uint8))
    options = ("data.held_out_share=0.0", "data.rounds_per_epoch=4", "model.generator.widths=[8]")
    trained(tmp_path / "array", "data=array", f"data.path={tmp_path / 'x.npy'}", "model=mlp", *options)
    with pytest.raises(SystemExit, match=r"^Error: .*array was not trained on data=mnist: give a run on MNIST\.$"):
        run(script, f"checkpoint={tmp_path / 'array'}", f"root={digits}")
    with pytest.raises(SystemExit, match=r"^Error: MNIST is not in root=.*nowhere and was not downloaded"):
        run(script, f"checkpoint={digits / 'run'}", f"root={tmp_path / 'nowhere'}")


def test_paths_are_taken_as_typed(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(load_script("sample"), f"checkpoint={digits / 'run'}", "n=4", f"out={tmp_path / ODD}/{ODD}.npz")
    with np.load(tmp_path / ODD / f"{ODD}.npz") as arrays:
        assert arrays["samples"].shape == (4, 1, 28, 28)
    place = tmp_path / ODD / "table.csv"
    report = [f"runs={digits}", f"runs={digits / 'run'}", "metrics=[step]", f"csv={place}"]
    run(load_script("report"), *report)
    setting = place.read_text().splitlines()[1]
    assert setting.endswith(",step,1,1,12,nan,")
    assert sorted(path.name for path in (tmp_path / ODD).iterdir()) == sorted([f"{ODD}.npz", "table.csv"])


@pytest.mark.parametrize(("script", "file"), [("sample.py", "x.pt"), ("export.py", "x.safetensors")])
def test_the_checkpoint_is_not_overwritten(tmp_path: Path, script: str, file: str) -> None:
    path, out = tmp_path / file, f"../{tmp_path.name}/{file}"
    path.write_bytes(b"weights")
    result = command(script, f"checkpoint={path}", f"out={out}", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (
        1,
        f"Error: out is {out}, which is the checkpoint: give another name.\n",
    )
    assert path.read_bytes() == b"weights"
