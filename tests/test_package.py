"""The wheel: what is in it, and a run from it in a folder that has nothing of this repository."""

import configparser
import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from zipfile import ZipFile

from conftest import ROOT
from helpers import TOY

import gan_lightning
from gan_lightning.pretrained import NAMES

OWN = """\
# @package _global_
defaults:
  - override /data: ring

name: mine
model: {latent_size: 3}
"""
COMMANDS = ("gan-train", "gan-sample", "gan-evaluate", "gan-export", "gan-report")
PROGRAM = "import sys, gan_lightning; from gan_lightning.commands import gan_train; print(gan_lightning.__file__); "
PROGRAM += "print(gan_lightning.load('mnist_10_minutes').sample(16).shape); sys.exit(gan_train())"


def built(folder: Path) -> Path:
    """The wheel of this repository, which is built from a copy: setuptools leaves folders beside its sources."""
    source = folder / "source"
    for name in ("gan_lightning", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(folder)]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(source)]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "absent from" not in ended.stdout + ended.stderr  # setuptools warns of folders that are no packages
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_the_wheel_trains_in_an_empty_folder_with_options_of_ones_own(tmp_path: Path) -> None:
    with ZipFile(built(tmp_path)) as wheel:
        wheel.extractall(tmp_path / "installed")
    (about,) = (tmp_path / "installed").glob("*.dist-info")
    found = {str(path.relative_to(tmp_path / "installed")) for path in about.parent.rglob("*") if path.is_file()}
    code = {str(path.relative_to(ROOT)) for path in (ROOT / "gan_lightning").rglob("*.py")}
    options = {f"gan_lightning/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    others = {f"gan_lightning/pretrained/{name}.safetensors" for name in NAMES} | {"gan_lightning/py.typed"}
    assert {name for name in found if ".dist-info/" not in name} == code | options | others
    assert f"\nVersion: {gan_lightning.__version__}\n" in (about / "METADATA").read_text()
    commands = configparser.ConfigParser()
    commands.read(about / "entry_points.txt")
    assert set(commands["console_scripts"]) == set(COMMANDS)
    for place in commands["console_scripts"].values():
        module, _, name = place.partition(":")
        assert callable(getattr(import_module(module), name))

    lab = tmp_path / "lab"
    (lab / "own" / "experiment").mkdir(parents=True)
    (lab / "own" / "experiment" / "mine.yaml").write_text(OWN)
    environment = os.environ | {"PYTHONPATH": str(about.parent)}
    arguments = ["--config-dir", "own", "experiment=mine", *TOY, "logger=none", "callbacks.samples.every_n_steps=40"]
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=lab,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    expected = [str(about.parent / "gan_lightning" / "__init__.py"), "torch.Size([16, 1, 28, 28])"]
    assert ended.stdout.splitlines()[:2] == expected
    (run,) = (lab / "outputs" / "mine").iterdir()
    assert json.loads((run / "metrics.json").read_text())["step"] == 40
    assert sorted(path.name for path in lab.iterdir()) == ["outputs", "own"]
