"""The command line as a user meets it: in processes of their own."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from omegaconf import OmegaConf
from PIL import Image
from torch.testing import assert_close

# runs train.py as the program and adds, at its end, what it imported
WRAPPER = """
import atexit, runpy, sys
atexit.register(lambda: print("imported torch:", "torch" in sys.modules))
sys.argv[0] = sys.argv[1]
del sys.argv[1]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
TINY = [
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.max_steps=20",
    "data.rounds_per_epoch=10",
    "data.batch_size=16",
    "data.validation_samples=64",
    "model.generator.widths=[8]",
    "model.discriminator.widths=[8]",
    "callbacks.samples.every_n_steps=10",
    "callbacks.samples.n=100",
]


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HYDRA", "PYTHONWARNINGS"))}
    return subprocess.run(
        [sys.executable, "-c", WRAPPER, str(ROOT / "train.py"), *arguments],
        cwd=cwd,
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def without_torch(result: subprocess.CompletedProcess[str]) -> str:
    """What the program printed, once it is sure that it imported no torch."""
    printed, _, imported = result.stdout.rpartition("imported torch: ")
    assert imported.strip() == "False"
    return printed


# ------------------------------------------------------------------------------------- before anything slow happens


def test_help_names_every_option_and_loads_nothing_slow(tmp_path: Path) -> None:
    result = command("--help", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    printed = without_torch(result)
    for folder in (path for path in (ROOT / "conf").iterdir() if path.is_dir()):
        listed = re.search(rf"^{folder.name}: (.*)$", printed, re.MULTILINE)
        assert listed, folder.name
        assert listed[1].split(", ") == sorted(path.stem for path in folder.glob("*.yaml"))
    assert "python train.py" in printed
    assert not list(tmp_path.iterdir())


def test_the_configuration_is_printed_whole_and_without_torch(tmp_path: Path) -> None:
    result = command("--cfg", "job", "model.lr=0.25", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    config = OmegaConf.create(without_torch(result))
    assert config.model.lr == 0.25
    assert {"data", "model", "trainer", "loss", "seed"} <= set(config)
    assert not list(tmp_path.iterdir())


WRONG = [
    (["model=foo"], "model=foo"),
    (["optimizer@generator_optimizer=foo"], "optimizer=foo"),
    (["regularizer=[r1,foo]"], "regularizer=foo"),
    (["regularizer=null"], "null"),
    (["experiment=foo"], "experiment=foo"),
    (["lr=1"], "lr is not an option"),
    (["optimizer=sgd"], "optimizer@generator_optimizer"),
    (["generator_optimizer=sgd"], "'sgd'"),
    (["model.lr=-1"], "-1"),
    (["model.lr=inf"], "inf"),
    (["model.betas=0.5"], "model.betas is 0.5"),
    (["data.batch_size=abc"], "'abc'"),
    (["seed=4294967296"], "4294967296"),
    (["seed=0,1"], "seed=0,1"),
    (["trainer.logger=csv"], "choose loggers by logger=csv"),
    (["logger=[csv,foo]"], "logger=foo"),
    (["~logger"], "logger=OPTION"),
    (["trainer.barebones=true"], "logger=none"),
    (["model=dcgan"], "data=gaussian"),
    (["data=image_folder"], "data.root"),
    (["loss._target_=os.system"], "'os.system'"),
    (["model.lr=${nowhere}"], "nowhere"),
    (["~data"], "data"),
    (["nonsense"], "nonsense"),
    (["model.generator.widths=[1"], "[1"),
    (["resume=nowhere"], "resume=nowhere"),
    (["resume=true"], "True"),
    (["-m", "seed=-1,-2"], "-1"),
]


@pytest.mark.parametrize(("arguments", "named"), WRONG, ids=[" ".join(row[0]) for row in WRONG])
def test_a_wrong_command_line_ends_in_one_sentence_at_once(tmp_path: Path, arguments: list[str], named: str) -> None:
    result = command(*arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert without_torch(result) == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert named in line
    assert line[-1] in ".?"
    assert str(ROOT) not in line
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "multirun.yaml"]


# ---------------------------------------------------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of a tiny run, and what it said."""
    folder = tmp_path_factory.mktemp("cli")
    return folder / "run", command(*TINY, "hydra.run.dir=run", cwd=folder)


def test_a_run_writes_its_folder_and_nothing_else(run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, result = run
    assert result.returncode == 0, result.stderr
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    events = [file for file in files if re.fullmatch(r"events\.out\.tfevents\.[^/]+", file)]
    assert events
    assert sorted(set(files) - set(events)) == [
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "config.yaml",
        "metrics.json",
        "samples/0000000.png",
        "samples/0000010.png",
        "samples/0000020.png",
    ]
    assert sorted(path.name for path in folder.parent.iterdir()) == ["run"]
    for picture in (folder / "samples").iterdir():
        with Image.open(picture) as image:
            assert len(image.convert("L").getcolors() or []) > 2


def test_metrics_json_counts_what_was_trained(run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = run
    metrics = json.loads((folder / "metrics.json").read_text())
    own = {"step", "images_seen", "seconds", "images_per_second", "peak_memory_bytes", "monitor"}
    assert {key for key in metrics if not key.startswith("val/")} == own
    assert {"val/ks", "val/wasserstein"} <= set(metrics)
    assert (metrics["step"], metrics["images_seen"]) == (20, 20 * 16)
    assert metrics["seconds"] > 0
    assert metrics["images_per_second"] == pytest.approx(320 / metrics["seconds"], rel=0.05)
    assert 10**8 < metrics["peak_memory_bytes"] < 10**10
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert (saved["global_step"], int(saved["state_dict"]["images_seen"])) == (20, 320)
    config = OmegaConf.load(folder / "config.yaml")
    assert (config.trainer.max_steps, config.data.batch_size) == (20, 16)
    assert "${" not in (folder / "config.yaml").read_text()


def test_a_run_says_where_everything_is_and_warns_of_nothing(
    run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, result = run
    assert result.stderr == ""
    *_, trained, where, look, imported = result.stdout.splitlines()
    metrics = json.loads((folder / "metrics.json").read_text())
    values = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items() if name.startswith("val/"))
    assert trained == f"Trained to step 20 on 320 samples: {values}"
    assert where == "Pictures in run/samples, checkpoint run/checkpoints/last.ckpt"
    assert look == "Curves and pictures: tensorboard --logdir run"
    assert imported == "imported torch: True"
    progress = result.stdout.splitlines()[:-4]
    assert len(progress) <= 3
    assert all(re.match(r"epoch \d+, step \d+/20, ", line) for line in progress)


def test_a_folder_that_holds_a_run_is_refused(run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = run
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    result = command(*TINY, "hydra.run.dir=run", cwd=folder.parent)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert "run holds a run already: go on with it by resume=" in line
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_sweep_makes_a_folder_for_each_run(tmp_path: Path) -> None:
    """Also with so many options that all their names together are too long for a folder's name."""
    result = command("-m", "seed=0,1", *TINY, "hydra.sweep.dir=sweep", "~callbacks.samples", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    runs = sorted(path for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    assert [OmegaConf.load(run / "config.yaml").seed for run in runs] == [0, 1]
    assert [json.loads((run / "metrics.json").read_text())["step"] for run in runs] == [20, 20]
    said = [line for line in result.stdout.splitlines() if not line.startswith("epoch")]
    for run, lines in zip(runs, (said[:3], said[3:6]), strict=True):
        folder = run.relative_to(tmp_path)
        assert lines[0].startswith("Trained to step 20 on 320 samples: val/")
        assert lines[1:] == [
            f"Checkpoint {folder}/checkpoints/last.ckpt",
            f"Curves and pictures: tensorboard --logdir {folder}",
        ]
    weights = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in runs]
    assert not torch.equal(*(w["generator.layers.0.weight"] for w in weights))


def test_data_that_cannot_be_had_is_told_in_one_sentence_too(tmp_path: Path) -> None:
    result = command("data=image_folder", "data.root=nowhere", *TINY[:2], cwd=tmp_path)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert re.match(r"Error: .*nowhere.*", line)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_sweep_runs_its_jobs_beside_each_other(tmp_path: Path) -> None:
    """With submitit's local launcher, each in a process of its own on one thread, and to the same weights."""
    options = ("-m", "seed=0,1", *TINY, "~callbacks.samples")
    for folder, *launcher in (("apart", "hydra/launcher=submitit_local"), ("in_turn",)):
        result = command(*options, *launcher, f"hydra.sweep.dir={folder}", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    weights = [
        [torch.load(path, weights_only=True)["state_dict"] for path in sorted((tmp_path / folder).rglob("last.ckpt"))]
        for folder in ("apart", "in_turn")
    ]
    assert len(weights[0]) == 2
    assert_close(*weights, rtol=0, atol=0)
    assert len(list((tmp_path / "apart" / ".submitit").rglob("*_result.pkl"))) == 2


def test_a_job_that_fails_beside_others_says_why_in_one_sentence(tmp_path: Path) -> None:
    options = ("-m", "hydra/launcher=submitit_local", "seed=-1,-2", "hydra.sweep.dir=sweep")
    result = command(*options, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr == "Error: seed is -1: give a whole number from 0 to 4294967295.\n"


@pytest.mark.parametrize(
    ("launcher", "threads"),
    [
        ({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}, None),
        ({"_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"}, "1"),
        ({"_target_": "x.LocalLauncher", "cpus_per_task": 3}, "3"),
        ({"_target_": "x.SlurmLauncher", "cpus_per_task": 4}, "4"),
        ({"_target_": "x.SlurmLauncher", "cpus_per_task": None}, None),
    ],
)
def test_jobs_beside_each_other_do_not_share_threads(
    monkeypatch: pytest.MonkeyPatch, launcher: dict[str, Any], threads: str | None
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # so that it is put back
    monkeypatch.delenv("OMP_NUM_THREADS")
    limit_threads = runpy.run_path(str(ROOT / "train.py"))["limit_threads"]
    limit_threads(OmegaConf.create(launcher))
    assert os.environ.get("OMP_NUM_THREADS") == threads
