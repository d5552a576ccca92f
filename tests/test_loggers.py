"""What each logger holds of a run, read back from its own files."""

import csv
import math
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from composing import composed
from hydra.errors import HydraException
from lightning.pytorch.loggers import CSVLogger
from omegaconf import DictConfig
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util

from gan_lightning import resumption
from gan_lightning.build import build_loggers
from gan_lightning.config import check, explain, options_of
from gan_lightning.errors import UsageError
from gan_lightning.loggers import CSVFile, EventFile, claim, log_picture, show_histograms, where
from gan_lightning.training import train

Configure = Callable[..., DictConfig]
Curves = dict[str, dict[int, float]]
ALL = ("tensorboard", "csv", "wandb", "mlflow")
OPTIONS = {"model": "points", "data.batch_size": 16}
TINY = (
    "trainer.accelerator=cpu",
    "trainer.max_steps=20",
    "trainer.log_every_n_steps=5",
    "data=gaussian",
    "data.batch_size=16",
    "data.rounds_per_epoch=10",
    "data.rounds_per_batch=5",
    "data.validation_samples=64",
    "model.generator.widths=[8]",
    "model.discriminator.widths=[8]",
    "callbacks.samples.n=16",
    "callbacks.samples.every_n_steps=10",
    "+callbacks.optimal._target_=gan_lightning.callbacks.optimal_discriminator.OptimalDiscriminator",
    "+callbacks.optimal.every_n_steps=10",
    "+callbacks.optimal.samples=16",
)


@pytest.fixture(scope="module", autouse=True)
def _environment() -> Iterator[None]:
    """What wandb and MLflow leave in the environment and in logging ends with this file."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_MODE", "WANDB_ERROR_REPORTING", "MLFLOW_DISABLE_TELEMETRY"):
            patch.setenv(name, "")
            patch.delenv(name)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every logger at once, interrupted at step 20 and gone on with to 30."""
    folder = tmp_path_factory.mktemp("loggers") / "run"
    config = composed(*TINY, f"logger=[{','.join(ALL)}]")
    train(config, folder, options=OPTIONS)
    with (folder / "metrics.csv").open("a") as file:  # what a killed run leaves: rows after its checkpoint, half a one
        width = (folder / "metrics.csv").read_text().partition("\n")[0].split(",")
        file.write(",".join("25" if name == "step" else "7" for name in width) + "\n0.5,0.5")
    train(resumption.resume(str(folder), ["trainer.max_steps=30"]), folder)
    return folder


def of_tensorboard(folder: Path) -> Curves:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def of_csv(folder: Path) -> Curves:
    curves: Curves = {}
    with (folder / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value != "" and name != "step":
                    curves.setdefault(name, {})[int(row["step"])] = float(value)
    return curves


def log_records(content: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, which wandb's is after 7 bytes: pieces in blocks of 32 KiB."""
    position, record = 7, b""
    while position + 7 <= len(content):
        if (left := 2**15 - position % 2**15) < 7:
            position += left  # no room for the head of another piece
            continue
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""


def wandb_records(folder: Path) -> list[Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    return [Record.FromString(record) for path in files for record in log_records(path.read_bytes())]


def wandb_lines(folder: Path) -> list[dict[str, Any]]:
    """Everything that was logged, line by line; a picture is several values, NAME/_type one of them."""
    lines = [record.history.item for record in wandb_records(folder) if record.history.item]
    return [{"/".join(item.nested_key) or item.key: yaml.safe_load(item.value_json) for item in line} for line in lines]


def of_wandb(folder: Path) -> Curves:
    curves: Curves = {}
    for line in wandb_lines(folder):
        for name, value in line.items():
            is_of_picture = f"{name.rpartition('/')[0]}/_type" in line
            if not name.startswith(("_", "trainer/")) and not is_of_picture:
                curves.setdefault(name, {})[line["trainer/global_step"]] = value
    return curves


def mlflow_run(folder: Path) -> tuple[Any, Any]:
    """The client of a run's own database, and the only run in it."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("gan_lightning")
    (only,) = client.search_runs([experiment.experiment_id])
    return client, only


def of_mlflow(folder: Path) -> Curves:
    client, only = mlflow_run(folder)
    return {
        name: {metric.step: metric.value for metric in client.get_metric_history(only.info.run_id, name)}
        for name in only.data.metrics
    }


READ = {"csv": of_csv, "wandb": of_wandb, "mlflow": of_mlflow}


@pytest.mark.parametrize("logger", READ)
def test_every_logger_has_tensorboards_scalars_at_the_same_steps(run: Path, logger: str) -> None:
    """Also after a resume, without what the interrupted run wrote after its checkpoint."""
    expected, found = of_tensorboard(run), READ[logger](run)
    assert found.keys() == expected.keys() > {"loss/generator", "val/ks", "theory/discriminator_gap"}
    for name, curve in expected.items():
        assert found[name] == pytest.approx(curve, rel=1e-6), name
    assert list(expected["loss/generator"]) == [5, 10, 15, 20, 25, 30]
    assert list(expected["val/ks"]) == [10, 20, 30]


def test_every_logger_that_shows_pictures_has_the_runs_own(run: Path) -> None:
    for name, steps in (("samples", [0, 10, 20, 30]), ("discriminator", [10, 20, 30])):
        pictures = {int(path.stem): np.asarray(Image.open(path)) for path in sorted((run / name).glob("*.png"))}
        assert list(pictures) == steps
        for shown in (tensorboard_pictures(run, name), wandb_pictures(run, name), mlflow_pictures(run, name)):
            assert sorted(shown) == steps
            for step, picture in pictures.items():
                assert np.array_equal(shown[step], picture)


def tensorboard_pictures(folder: Path, name: str) -> dict[int, np.ndarray]:
    from io import BytesIO

    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload().Images(name)
    return {event.step: np.asarray(Image.open(BytesIO(event.encoded_image_string))) for event in events}


def wandb_pictures(folder: Path, name: str) -> dict[int, np.ndarray]:
    files = {path.name: path for path in folder.glob("wandb/offline-run-*/files/media/images/*.png")}
    return {
        line["trainer/global_step"]: np.asarray(Image.open(files[Path(line[f"{name}/filenames"][0]).name]))
        for line in wandb_lines(folder)
        if f"{name}/_type" in line
    }


def mlflow_pictures(folder: Path, name: str) -> dict[int, np.ndarray]:
    images = folder.glob(f"mlflow/*/artifacts/images/{name}+step+*.png")
    return {int(path.name.split("+")[2]): np.asarray(Image.open(path)) for path in images}


def test_every_logger_has_the_options_once(run: Path) -> None:
    expected = {"seed": 0, "generator_optimizer.lr": 0.001, "discriminator_optimizer.lr": 0.001, **OPTIONS}
    assert yaml.safe_load((run / "hparams.yaml").read_text()) == expected
    _, only = mlflow_run(run)
    assert only.data.params == {name: str(value) for name, value in expected.items()}
    assert only.info.status == "FINISHED"
    updates = [update for record in wandb_records(run) for update in record.config.update]
    found = {"/".join(u.nested_key) or u.key: yaml.safe_load(u.value_json) for u in updates}
    assert {name: found[name] for name in expected} == expected
    tags = EventAccumulator(str(run)).Reload().PluginTagToContent("hparams")
    assert sum(tag.endswith("session_start_info") for tag in tags) == 1


def test_a_resumed_run_is_the_same_run_of_wandb(run: Path) -> None:
    ids = {record.run.run_id for record in wandb_records(run) if record.HasField("run")}
    assert len(ids) == 1
    assert len(list(run.glob("wandb/offline-run-*"))) == 2


def test_what_a_run_says_to_type_can_be_typed(configure: Configure, tmp_path: Path) -> None:
    """Also if its folder has spaces and brackets."""
    folder = tmp_path / "my run [x]"
    (logger,) = build_loggers(configure("logger=tensorboard").logger, folder)
    assert where(logger, folder).endswith(f"tensorboard --logdir {shlex.quote(os.path.relpath(folder))}")
    folder.mkdir()
    (folder / "config.yaml").touch()
    with pytest.raises(UsageError, match=re.escape(f"resume it with 'resume={folder}', or choose another")):
        train(configure(*TINY), folder)


@pytest.mark.parametrize("chosen", ["none", "csv", "[tensorboard,csv]"])
def test_a_run_writes_what_its_loggers_write_and_says_where(
    configure: Configure, tmp_path: Path, chosen: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train(configure(*TINY, f"logger={chosen}"), tmp_path)
    said = capsys.readouterr().out
    assert bool(list(tmp_path.rglob("*tfevents*"))) == ("tensorboard" in chosen) == ("tensorboard --logdir" in said)
    assert (tmp_path / "metrics.csv").exists() == ("csv" in chosen) == ("/metrics.csv\n" in said)
    assert (tmp_path / "samples" / "0000020.png").exists()


def test_options_can_be_left_out(configure: Configure, tmp_path: Path) -> None:
    train(configure(*TINY, "logger=csv", "trainer.enable_autolog_hparams=false"), tmp_path)
    assert not (tmp_path / "hparams.yaml").exists()


def test_a_resumed_run_continues_its_curves_without_options_too(configure: Configure, tmp_path: Path) -> None:
    """The last checkpoint is written before the last row, of the speed, and a logger may have a folder of its own."""
    place = tmp_path / "curves"
    options = ("logger=csv", f"logger.csv.save_dir={place}", "trainer.enable_autolog_hparams=false")
    train(configure(*TINY, *options, "trainer.max_steps=10"), tmp_path / "run")
    with (place / "metrics.csv").open("a") as file:
        file.write(",".join("9" for _ in of_csv(place)) + ",10\n")  # what a killed run wrote after its checkpoint
    (tmp_path / "run" / "metrics.json").unlink()
    train(resumption.resume(str(tmp_path / "run"), ["trainer.max_steps=20"]), tmp_path / "run")
    assert 9.0 not in of_csv(place)["loss/generator"].values()


def test_a_run_that_restarts_before_its_first_checkpoint_forgets_all(configure: Configure, tmp_path: Path) -> None:
    train(configure(*TINY, "logger=[tensorboard,csv]", "trainer.max_steps=10"), tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "metrics.json").unlink()
    train(resumption.resume(str(tmp_path), ["trainer.max_steps=5"]), tmp_path)
    for curves in (of_tensorboard(tmp_path), of_csv(tmp_path)):
        assert list(curves["loss/generator"]) == [5]


def test_loggers_are_in_the_runs_folder_or_in_their_own(configure: Configure, tmp_path: Path) -> None:
    theirs = "+logger.theirs={_target_: lightning.pytorch.loggers.CSVLogger, name: theirs, version: 3}"
    config = configure("logger=[tensorboard,csv,wandb,mlflow]", f"logger.csv.save_dir={tmp_path / 'own'}", theirs)
    loggers = build_loggers(config.logger, tmp_path / "run")
    folders = [str(tmp_path / place) for place in ("run", "own", "run", "run", "run")]
    assert [logger.save_dir for logger in loggers] == folders
    assert isinstance(loggers[-1], CSVLogger)
    assert (loggers[-1].name, loggers[-1].version) == ("theirs", 3)
    names = loggers[2]._wandb_init["name"], loggers[3]._names[1]  # type: ignore[attr-defined]
    assert names == (f"{tmp_path.name}/run",) * 2  # as of mlp_mnist/TIME
    assert not list(tmp_path.iterdir())


def test_wandb_is_offline_unless_it_is_told_otherwise(configure: Configure, tmp_path: Path) -> None:
    for chosen, mode in (("true", "offline"), ("false", None)):
        config = configure("logger=wandb", f"logger.wandb.offline={chosen}", "logger.wandb.project=mine")
        (logger,) = build_loggers(config.logger, tmp_path)
        assert logger._wandb_init.get("mode") == mode  # type: ignore[attr-defined]
        assert logger.name == "mine"


def test_mlflow_takes_a_server(configure: Configure, tmp_path: Path) -> None:
    (logger,) = build_loggers(configure("logger=mlflow", "logger.mlflow.tracking_uri=http://a:1").logger, tmp_path)
    assert logger.tracking_uri == "http://a:1"  # type: ignore[attr-defined]


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_a_missing_package_is_told_with_the_command_that_installs_it(
    configure: Configure, tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gan_lightning.loggers.find_spec", lambda name: None if name == package else find_spec(name))
    with pytest.raises(UsageError, match=rf"^logger={package} needs .*: pip install -e '\.\[{package}\]'\.$"):
        build_loggers(configure(f"logger={package}").logger, tmp_path)


def test_the_trainers_own_logger_is_refused_and_the_group_named(configure: Configure) -> None:
    for option in ("csv", "false", "true"):
        with pytest.raises(HydraException) as caught:
            configure(f"trainer.logger={option}")
        assert explain(caught.value).startswith("trainer.logger is not an option here: choose loggers by logger=csv,")
        with pytest.raises(UsageError, match=r"^trainer\.logger=.* is not supported: choose loggers by logger=csv"):
            check(configure(f"+trainer.logger={option}"), {})


def test_the_options_that_are_told_are_what_was_chosen_and_changed(configure: Configure) -> None:
    overrides = ["model=points", "seed=3", "model.lr=0.25", "+trainer.extra=a", "~callbacks.samples", "resume=null"]
    overrides += ["regularizer=[r1,r2]", "model.generator.widths=[8]"]
    choices = {"model": "points", "optimizer@generator_optimizer": "adam", "experiment": None}
    choices |= {"hydra/launcher": "basic", "regularizer": ["r1", "r2"]}
    assert options_of(configure(*overrides), choices, overrides) == {
        "model": "points",
        "generator_optimizer": "adam",
        "regularizer": "['r1', 'r2']",
        "seed": 3,
        "model.lr": 0.25,
        "trainer.extra": "a",
    }


def test_rows_are_on_the_disk_as_soon_as_they_are_logged(tmp_path: Path) -> None:
    logger = CSVFile(str(tmp_path))
    for step in (1, 2):
        logger.log_metrics({"a": torch.tensor(float(step))}, step)
        assert of_csv(tmp_path)["a"] == {s: float(s) for s in range(1, step + 1)}
    logger.log_metrics({"b": 0.5}, 3)
    assert of_csv(tmp_path) == {"a": {1: 1.0, 2: 2.0}, "b": {3: 0.5}}


def test_a_line_of_the_log_is_one_record_of_an_event_file(tmp_path: Path) -> None:
    """The file is opened once for it, and a kill cannot split it. Values of an unknown type are the caller's error."""
    logger = EventFile(str(tmp_path))
    logger.log_metrics({"a": 0.25, "b": torch.tensor(2.0), "c": 3}, 7)
    logger.log_metrics({"a": 0.5, "both": {"d": 1.0, "e": 2.0}}, 8)
    with pytest.raises((NotImplementedError, ValueError)):
        logger.log_metrics({"a": object()}, 9)
    logger.save()
    (file,) = tmp_path.glob("events.out.tfevents.*")
    events = [event for event in EventFileLoader(str(file)).Load() if event.step == 7]
    assert [[(value.tag, tensor_util.make_ndarray(value.tensor)) for value in e.summary.value] for e in events] == [
        [("a", 0.25), ("b", 2.0), ("c", 3.0)]
    ]
    log = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in log.Scalars("a")] == [(7, 0.25), (8, 0.5)]
    assert [event.value for event in EventAccumulator(str(tmp_path / "both_e")).Reload().Scalars("both")] == [2.0]


def test_a_logger_of_ones_own_gets_no_picture_and_no_complaint(tmp_path: Path) -> None:
    log_picture([CSVLogger(tmp_path)], "samples", torch.zeros(3, 4, 5, dtype=torch.uint8), b"", 0)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------- folders that are shared


BARE = (*(option for option in TINY if "callbacks" not in option), "callbacks=none", "trainer.max_steps=10")


def test_two_loggers_of_one_file_are_refused(configure: Configure, tmp_path: Path) -> None:
    second = "+logger.second={_target_: gan_lightning.loggers.CSVFile}"
    with pytest.raises(UsageError, match=r"^Two loggers write CSVFile in .*: give each its own save_dir\.$"):
        train(configure(*BARE, "logger=csv", second, "callbacks=default"), tmp_path / "a")


@pytest.mark.parametrize("name", ["tensorboard", "csv"])
def test_a_folder_for_curves_is_one_runs_alone(configure: Configure, tmp_path: Path, name: str) -> None:
    """By whichever run it is asked for, a new one or one that goes on; what is there stays."""
    place = tmp_path / "curves"
    options = (*BARE, f"logger={name}", f"logger.{name}.save_dir={place}")
    train(configure(*options, "callbacks=default"), tmp_path / "a")
    train(configure(*BARE, f"logger={name}", "callbacks=default"), tmp_path / "b")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="already holds a run's curves: give each run its own save_dir"):
        train(configure(*options), tmp_path / "c")
    changes = [f"logger.{name}.save_dir={place}", "trainer.max_steps=20"]
    with pytest.raises(UsageError, match=rf"save_dir={place} belongs to another run, {tmp_path / 'a'}: "):
        train(resumption.resume(tmp_path / "b", changes), tmp_path / "b")
    with pytest.raises(UsageError, match="is the folder of another run"):
        train(configure(*BARE, f"logger={name}", f"logger.{name}.save_dir={tmp_path / 'b'}"), tmp_path / "c")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    (tmp_path / "a").rename(tmp_path / "moved")
    train(resumption.resume(tmp_path / "moved", ["trainer.max_steps=20"]), tmp_path / "moved")
    curves = {"tensorboard": of_tensorboard, "csv": of_csv}[name](place)
    assert list(curves["loss/generator"]) == [5, 10, 15, 20]


def test_of_two_runs_that_begin_at_once_one_has_the_folder(tmp_path: Path) -> None:
    """Before either has written a curve."""
    runs = [tmp_path / "a", tmp_path / "b"]
    for run in runs:
        run.mkdir()
    both = [CSVFile(str(tmp_path / "curves")), EventFile(str(tmp_path / "curves"))]
    claim(both, runs[0], is_new=True)
    claim(both, runs[0], is_new=True)
    with pytest.raises(UsageError, match="belongs to another run"):
        claim(both, runs[1], is_new=True)
    runs[0].rmdir()
    claim(both, runs[1], is_new=True)
    claim([CSVFile(str(runs[1]))], runs[1], is_new=True)
    assert list(runs[1].iterdir()) == []
    with pytest.raises(UsageError, match=r"save_dir=/dev/null/x cannot be written \(not a directory\): choose another"):
        claim([CSVFile("/dev/null/x")], runs[1], is_new=True)


def test_two_loggers_of_one_kind_both_continue(configure: Configure, tmp_path: Path) -> None:
    """After a kill, each keeps what its own files had at the checkpoint."""
    second = f"{{_target_: gan_lightning.loggers.EventFile, save_dir: {tmp_path / 'second'}}}"
    third = f"{{_target_: gan_lightning.loggers.CSVFile, save_dir: {tmp_path / 'third'}}}"
    options = ("logger=[tensorboard,csv]", f"+logger.second={second}", f"+logger.third={third}")
    train(configure(*TINY, *options, "trainer.max_steps=10"), tmp_path / "run")
    with (tmp_path / "third" / "metrics.csv").open("a") as file:
        file.write(",".join("9" for _ in of_csv(tmp_path / "third")) + ",10\n")
    (tmp_path / "run" / "metrics.json").unlink()
    train(resumption.resume(str(tmp_path / "run"), ["trainer.max_steps=20"]), tmp_path / "run")
    every = [of_tensorboard(tmp_path / name) for name in ("run", "second")]
    every += [of_csv(tmp_path / name) for name in ("run", "third")]
    for curves in every:
        assert list(curves["loss/generator"]) == [5, 10, 15, 20]
        assert curves["loss/generator"] == pytest.approx(every[0]["loss/generator"])


def test_histograms_of_what_is_not_finite_are_left_out(tmp_path: Path) -> None:
    logger = EventFile(tmp_path)
    values = {"outputs/real": torch.tensor([1.0, math.inf]), "outputs/fake": torch.tensor([1.0, 2.0])}
    show_histograms([logger], lambda: values, 3)
    logger.finalize("success")
    tags = EventAccumulator(str(tmp_path)).Reload().Tags()["histograms"]
    assert tags == ["outputs/fake"]
