"""The command line as a user meets it: in processes of their own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import programs
import pytest
import torch
from conftest import ROOT
from omegaconf import OmegaConf
from PIL import Image
from torch.testing import assert_close

from gan_lightning.commands.train import limit_threads

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
    """train.py in a process without torch, which says at its end what it imported that is slow."""
    return programs.run_quickly(ROOT / "train.py", *arguments, cwd=cwd)


def trained(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return programs.run(ROOT / "train.py", *arguments, cwd=cwd)


def without_torch(result: subprocess.CompletedProcess[str]) -> str:
    """What the program printed, once it is sure that it imported no torch."""
    printed, imported = parted(result)
    assert imported == []
    return printed


def parted(result: subprocess.CompletedProcess[str]) -> tuple[str, list[str]]:
    """What the program printed, and what it imported that is slow."""
    printed, _, imported = result.stdout.rpartition("imported:")
    return printed, imported.split()


# ------------------------------------------------------------------------------------- before anything slow happens


COUNTED = """
import atexit, runpy, sys
from hydra._internal import config_repository

def counted(repository, delegate, made=[0], init=config_repository.CachingConfigRepository.__init__):
    made[0] += 1
    init(repository, delegate)
    print("searches", made[0], file=sys.stderr)

config_repository.CachingConfigRepository.__init__ = counted
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def test_help_searches_the_configurations_once(tmp_path: Path) -> None:
    """Not once for each group, which takes seconds."""
    program = [sys.executable, "-c", COUNTED, str(ROOT / "train.py"), "--help"]
    result = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "experiment: acgan_mnist, " in result.stdout
    assert 1 <= len(result.stderr.splitlines()) <= 4  # of the command, and of the list of groups


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
    (["regularizer=null"], "A group takes the name of one of its options"),
    (["trainer=5"], "A group takes the name of one of its options"),
    (["experiment=foo"], "experiment=foo"),
    (["lr=1"], "did you mean model.lr?"),
    (["epochs=1"], "did you mean trainer.max_epochs?"),
    (["trainer.max_step=1"], "did you mean trainer.max_steps?"),
    (["data=ring", "data.distribution.modus=1"], "did you mean data.distribution.modes?"),
    (["optimizer=sgd"], "optimizer@generator_optimizer"),
    (["generator_optimizer=sgd"], "'sgd'"),
    (["model.lr=-1"], "-1"),
    (["model.lr=inf"], "inf"),
    (["model.lr={a:1}"], "model.lr is {'a': 1}"),
    (["model.betas=0.5"], "model.betas is 0.5"),
    (["data.batch_size=abc"], "'abc'"),
    (["seed=4294967296"], "4294967296"),
    (["trainer.min_steps=9", "trainer.max_steps=5"], "trainer.min_steps is 9, above trainer.max_steps=5: leave out"),
    (["seed=0,1"], "seed=0,1 gives several values: add -m"),
    (["--epochs", "10"], "--epochs is not an option: give name=value"),
    (["modle=mlp"], "did you mean model?"),
    (["trainer.logger=csv"], "choose loggers by logger=csv"),
    (["logger=[csv,foo]"], "logger=foo"),
    (["~logger"], "logger=OPTION"),
    (["trainer.barebones=true"], "logger=none"),
    (["model=dcgan"], "data=gaussian"),
    (["data=image_folder"], "data.root"),
    (["data=image_folder", "data.root="], "data.root is empty"),
    (["loss._target_=my_lab_that_is_not.X"], "package my_lab_that_is_not was not found"),
    (["model.lr=${nowhere}"], "nowhere"),
    (["+model.foo=1"], "+model.foo=1 sets an option that nothing uses"),
    (["++trainer.max_step=1"], "did you mean trainer.max_steps?"),
    (["~trainer.devices"], "trainer.devices=VALUE"),
    (["~data"], "data"),
    (["nonsense"], "'nonsense' is not of the form name=value"),
    (["-m", "seed=0", "1"], "'1' is not of the form name=value: give for example seed=0,1, without spaces"),
    (["seed=0,", "1"], "'seed=0,' cannot be read: write lists without spaces, as in seed=0,1"),
    (["name=my(run"], "'name=my(run' cannot be read"),
    (["loss=[hinge,minimax]"], "loss takes one option, but hinge,minimax is given: choose one."),
    (["trainer=[ddp,default]"], "trainer takes one option, but ddp,default is given"),
    (["optimizer@generator_optimizer=[sgd,adam]"], "optimizer@generator_optimizer takes one option"),
    (["hydra.run.dir=null"], "hydra.run.dir is null, which its type does not allow (field 'hydra.run.dir' is not Opt"),
    (["trainer.threads=100000"], "trainer.threads is 100000: give a whole number from 1 to 1024"),
    (["name=été"], "name=été has characters that need quotes: quote the text, as in 'data.classes="),
    (["model.generator.widths=[1"], "[1"),
    (["--config-dir", "/nope"], "/nope"),
    (["--config-dir", "/nope", "resume=nowhere"], "--config-dir /nope is not a folder"),
    (["~game"], "game=OPTION"),
    (["~data._target_"], "~data._target_ removes"),
    (["+regularizer.r1.weight=10"], "choose regularizer=r1"),
    (["trainer.plugins=slurm"], "trainer.plugins is 'slurm'"),
    (["hydra.run.dir=/dev/null"], "/dev/null cannot be created"),
    (["hydra.run.dir=/dev/null/x"], "/dev/null/x cannot be created"),
    (["hydra.run.dir=/proc/x"], "/proc/x cannot be created"),
    (["hydra.run.dir=" + "x" * 300], "cannot be created"),
    (["-m", "seed=0,1", "hydra.sweep.dir=/dev/null/x"], "/dev/null/x cannot be created"),
    (["resume=nowhere"], "resume=nowhere"),
    (["resume=nowhere", "data.root=x", "trainer.max_steps=7"], "resume=nowhere"),
    (["resume=nowhere/checkpoints/best.ckpt"], "best.ckpt does not exist"),
    (["resume=true"], "true"),
    (["resume="], "resume="),
    (["trust=[my_lab]"], "resume=RUN_FOLDER"),
    (["-m", "seed=-1,-2"], "-1"),
    (["-m", "seed=range(3,3)", "loss=hinge,minimax"], "seed=range(3,3) gives no value, so nothing would run"),
    (["-m", "loss=glob(max*)"], "loss=glob(max*) gives no value"),
    (["-m", "data.root=glob(*)", "data=mnist"], "data.root=glob(*) gives no value"),
    (["-m", "data=mnist,gaussian", "data.root=nowhere"], "data.root is not an option of every run in this sweep"),
    (["-m", "data=ring,grid", "data.distribution.std=1"], "data.distribution.std is not an option here"),
    (["-m", "seed=0,1", "hydra.run.dir=mine"], "hydra.run.dir is the folder of one run: for a sweep, give hydra.sweep"),
    (["hydra.job.chdir=true"], "hydra.job.chdir changes the folder that paths are relative to: leave it out"),
    (["-m", "seed=0,1", "hydra.sweep.dirr=x"], "hydra.sweep.dirr is not an option here"),
]


@pytest.mark.parametrize("option", ["data.root", "hydra.run.dir", "resume"])
def test_what_is_not_utf_8_is_refused(tmp_path: Path, option: str) -> None:
    """Of a folder that is there."""
    name = os.fsdecode(b"caf\xe9")
    (tmp_path / name).mkdir()
    result = command(f"{option}={name}", cwd=tmp_path)
    assert without_torch(result) == ""
    assert result.stderr == f"Error: {option}=caf\\udce9 is not UTF-8: rename the file, or give a link to it.\n"
    assert list(tmp_path.iterdir()) == [tmp_path / name]


@pytest.mark.parametrize(("arguments", "named"), WRONG, ids=[" ".join(row[0])[:50] for row in WRONG])
def test_a_wrong_command_line_ends_in_one_sentence_at_once(tmp_path: Path, arguments: list[str], named: str) -> None:
    result = command(*arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert without_torch(result) == ("1 of 2: seed=-1\n" if "seed=-1,-2" in arguments else "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert named in line
    assert line[-1] in ".?"
    assert str(ROOT) not in line
    left = [path for path in tmp_path.rglob("*") if path.is_file() or "-m" not in arguments]
    has_begun = {"seed=-1,-2", "data=mnist,gaussian"} & set(arguments)  # what only some runs lack
    assert [path.name for path in left] == (["multirun.yaml"] if has_begun else [])


@pytest.mark.parametrize("folder", [".", "mine"])
def test_a_folder_of_the_users_own_is_never_removed(tmp_path: Path, folder: str) -> None:
    (tmp_path / "here" / folder).mkdir(parents=True)
    result = command(f"hydra.run.dir={folder}", "trainer.max_steps=-5", cwd=tmp_path / "here")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: trainer.max_steps is -5: give")
    assert (tmp_path / "here" / folder).is_dir()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a:\n\t b: 1\n", "not valid YAML (while scanning for the next token found character '\\t'"),
        (b"seed: 1\nseed: 2\n", "found duplicate key seed"),
        (b"name: caf\xe9\n", "x.yaml is not UTF-8: save it as UTF-8."),
        (b"name: \0\n", "unacceptable character #x0000"),
        (b"defaults: 3\n", "defaults must be a list"),
    ],
)
def test_ones_own_options_that_cannot_be_read_are_told_in_one_sentence(
    tmp_path: Path, content: bytes, says: str
) -> None:
    path = tmp_path / "mine" / "experiment" / "x.yaml"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"# @package _global_\n" + content)
    result = command("--config-dir", "mine", "experiment=x", cwd=tmp_path)
    assert result.returncode == 1
    assert without_torch(result) == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert says in line
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine"]


def test_a_refused_run_that_had_to_take_another_folder_leaves_none(tmp_path: Path) -> None:
    """As where two begin in one second."""
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "x.yaml").write_text("# @package _global_\nhydra: {run: {dir: run}}\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    options = ("data=image_folder", "data.root=nowhere", *TINY[:2])
    result = trained("--config-dir", "mine", "experiment=x", *options, cwd=tmp_path)
    assert result.returncode == 1
    assert "nowhere" in result.stderr
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["mine", "run"]


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
        "real.png",
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
    assert (config.choices.loss, config.choices.generator_optimizer) == ("non_saturating", "adam")
    assert "${" not in (folder / "config.yaml").read_text()


def test_a_run_says_where_everything_is_and_warns_of_nothing(
    run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, result = run
    assert result.stderr == ""
    printed, imported = parted(result)
    assert imported == ["torch"]  # half of the time to the first update went into what no run of points uses
    *progress, reached, where, look = printed.splitlines()
    metrics = json.loads((folder / "metrics.json").read_text())
    values = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items() if name.startswith("val/"))
    assert reached == f"Trained to step 20 on 320 samples: {values}"
    assert where == "Pictures in run/samples, checkpoint run/checkpoints/last.ckpt"
    assert look == "Curves and pictures: tensorboard --logdir run"
    assert len(progress) <= 3
    assert all(re.match(r"epoch \d+, step \d+/20, ", line) for line in progress)


def test_a_folder_that_holds_a_run_is_refused(run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = run
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    result = trained(*TINY, "hydra.run.dir=run", cwd=folder.parent)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert "run already holds a run: resume it with resume=" in line
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_sweep_makes_a_folder_for_each_run(tmp_path: Path) -> None:
    """Also with so many options that all their names together are too long for a folder's name."""
    result = trained("-m", "seed=0,1", *TINY, "hydra.sweep.dir=sweep", "~callbacks.samples", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    found = [path for path in (tmp_path / "sweep").iterdir() if path.is_dir()]
    runs = sorted(found, key=lambda run: OmegaConf.load(run / "config.yaml").seed)
    assert [OmegaConf.load(run / "config.yaml").seed for run in runs] == [0, 1]
    assert [json.loads((run / "metrics.json").read_text())["step"] for run in runs] == [20, 20]
    said = [line for line in result.stdout.splitlines() if not line.startswith("epoch")]
    for seed, (run, (announced, *lines)) in enumerate(zip(runs, (said[:4], said[4:8]), strict=True)):
        folder = run.relative_to(tmp_path)
        assert announced == f"{seed + 1} of 2: seed={seed}"
        assert lines[0].startswith("Trained to step 20 on 320 samples: val/")
        assert lines[1:] == [
            f"Checkpoint {folder}/checkpoints/last.ckpt",
            f"Curves and pictures: tensorboard --logdir {folder}",
        ]
    weights = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in runs]
    assert not torch.equal(*(w["game.generator.layers.0.weight"] for w in weights))


@pytest.mark.parametrize(
    ("swept", "option"),
    [
        ("data=ring,grid", "data.distribution.sigma"),
        ("experiment=ring_relativistic,grid_relativistic", "regularizer.r1.weight"),
    ],
)
def test_an_option_of_the_swept_groups_is_set_in_each_run(tmp_path: Path, swept: str, option: str) -> None:
    """Although the default group has no such option."""
    result = trained("-m", swept, f"{option}=0.125", *TINY, "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    configs = [OmegaConf.load(path) for path in (tmp_path / "sweep").glob("*/config.yaml")]
    assert [OmegaConf.select(config, option) for config in configs] == [0.125, 0.125]


def test_data_that_cannot_be_had_is_told_in_one_sentence_too(tmp_path: Path) -> None:
    result = trained("data=image_folder", "data.root=nowhere", *TINY[:2], cwd=tmp_path)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert re.match(r"Error: .*nowhere.*", line)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_sweep_runs_its_jobs_beside_each_other(tmp_path: Path) -> None:
    """With submitit's local launcher, each in a process of its own on one thread, and to the same weights."""
    options = ("-m", "seed=0,1", *TINY, "~callbacks.samples")
    for folder, *launcher in (("apart", "hydra/launcher=submitit_local"), ("in_turn",)):
        result = trained(*options, *launcher, f"hydra.sweep.dir={folder}", cwd=tmp_path)
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
    result = trained(*options, cwd=tmp_path)
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
    limit_threads(OmegaConf.create(launcher))
    assert os.environ.get("OMP_NUM_THREADS") == threads


# ------------------------------------------------------------------------------------------- a run that goes on


def test_a_run_goes_on_by_what_it_is_called_with_changes_of_its_own_options(tmp_path: Path) -> None:
    """Not the default groups, in a folder that Hydra's grammar refuses, and with moved data."""
    picture = Image.effect_noise((28, 28), 50)
    (tmp_path / "data (1)").mkdir()
    for i in range(40):
        picture.rotate(9 * i).save(tmp_path / "data (1)" / f"{i}.png")
    options = [option for option in TINY if not option.startswith(("data.rounds", "data.validation"))]
    groups = ("model=mlp", "data=image_folder", "data.size=8", "data.channels=1", "regularizer=[r1]", "schedule=linear")
    place = ("data.root=data (1)", "hydra.run.dir=runs/loss=hinge,seed=0 (图像)")
    first = trained(*options, *groups, *place, "data.workers=0", "callbacks.samples.n=4", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    run = tmp_path / "runs" / "loss=hinge,seed=0 (图像)"
    (tmp_path / "data (1)").rename(tmp_path / "moved")
    changes = ("data.root=moved", "regularizer.r1.weight=0.5", "schedule.start=0.25", "trainer.max_steps=30")
    refused = trained(f"resume={run}", "loss=hinge", *changes, cwd=tmp_path)
    assert refused.stderr.startswith("Error: loss=hinge cannot change a resumed run")
    second = trained(f"resume={run}/checkpoints/last.ckpt", *changes, cwd=tmp_path)
    assert (second.returncode, second.stderr) == (0, "")
    config = OmegaConf.load(run / "config.yaml")
    assert (config.data.root, config.regularizer.r1.weight) == (str(tmp_path / "moved"), 0.5)
    assert (config.schedule.start, config.trainer.max_steps) == (0.25, 30)
    assert json.loads((run / "metrics.json").read_text())["step"] == 30
    third = trained(f"resume={run}", "trainer.max_steps=29", cwd=tmp_path)
    assert third.stderr.startswith("Error: trainer.max_steps is 29, but the run is already at step 30")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["moved", "runs"]


def test_a_sweep_over_folders_of_data_has_a_run_for_each(tmp_path: Path) -> None:
    for name, shade in (("A", 50), ("B (2)", 200)):
        (tmp_path / name).mkdir()
        for i in range(20):
            Image.new("L", (8, 8), shade + i).save(tmp_path / name / f"{i}.png")
    options = [option for option in TINY if not option.startswith(("data.rounds", "data.validation"))]
    sweep = ["-m", "data.root=A,B (2)", "model=mlp", "data=image_folder", "data.size=8", "data.channels=1"]
    arguments = [*sweep, *options, "callbacks=none", "hydra.sweep.dir=sweep"]
    arguments = [argument for argument in arguments if not argument.startswith("callbacks.")]
    result = trained(*arguments, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    runs = sorted(path for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    roots = {OmegaConf.load(run / "config.yaml").data.root for run in runs}
    assert roots == {str(tmp_path / "A"), str(tmp_path / "B (2)")}
    assert all(re.fullmatch(r"[\w.+@-]+", run.name, re.ASCII) for run in runs)
    again = command(*arguments, cwd=tmp_path)
    assert without_torch(again).count("has already finished") == 2
