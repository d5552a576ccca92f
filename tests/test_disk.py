"""Faults of the disk, at every file that is written: one sentence, or one warning where training goes on without."""

import errno
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from composing import composed
from helpers import load_script, trained
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.profilers import SimpleProfiler
from omegaconf import DictConfig
from tensorboard.summary.writer.record_writer import RecordWriter
from test_endings import SMALL, Disk, _forget_warnings  # noqa: F401  a fixture

from gan_lightning import files, loggers, resumption, training
from gan_lightning.errors import Fault

Refuse = Callable[[pytest.MonkeyPatch, OSError], Any]
RUN = (
    *SMALL,
    "trainer.max_steps=24",
    "trainer.limit_val_batches=1.0",
    "callbacks.samples.every_n_steps=100",
    "logger=[tensorboard,csv]",
    "callbacks.checkpoint.every_seconds=0",
    "+callbacks.curves._target_=gan_lightning.callbacks.curves.LossCurves",
    "+callbacks.film._target_=gan_lightning.callbacks.animation.Animation",
    "+callbacks.theory._target_=gan_lightning.callbacks.optimal_discriminator.OptimalDiscriminator",
    "+callbacks.theory.samples=50",
)


def fault(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def written(pattern: str, times: int = 1) -> Refuse:
    """A file of that name that is written aside."""
    return lambda patch, error: Disk(patch, {pattern: times}, error)


def call(owner: Any, name: str, first: int = 0, times: int = 1) -> Refuse:
    """A call that writes, from the first-th on."""

    def refuse(patch: pytest.MonkeyPatch, error: OSError) -> None:
        method, calls = getattr(owner, name), [0]

        def refusing(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            if first < calls[0] <= first + times:
                raise error
            return method(*args, **kwargs)

        patch.setattr(owner, name, refusing)

    return refuse


class OwnLogger(Logger):
    """One's own, which writes what it is given."""

    name, version = "own", 0

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.write()

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.write()

    def finalize(self, status: str) -> None:
        self.write()

    def write(self) -> None:
        pass


def configured(*others: str) -> DictConfig:
    return composed(*RUN, *others)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("run"), *RUN)


# ------------------------------------------------------------------------------------------------------------ runs

ENDS = {  # a run: the step of its last checkpoint then
    "config.yaml": (written(r"\.config\."), errno.EROFS, None),
    "the event file": (call(RecordWriter, "write"), errno.ENOSPC, None),
    "the first checkpoint": (written(r"\.last\."), errno.ENOSPC, None),
    "the former checkpoint": (written(r"\.previous\."), errno.EDQUOT, 4),
    "a checkpoint, as torch hides it": (call(torch, "save", 2), errno.ENOSPC, 8),
    "the best checkpoint": (written(r"\.best\."), errno.EACCES, 16),
    "metrics.json": (written(r"\.metrics\..*json"), errno.EIO, 24),
}
GOES_ON = {
    "the picture of real data": (written(r"\.real\."), errno.ENOSPC),
    "pictures": (written(r"\.0000\d*\.", 9), errno.EACCES),
    "the curves of the losses": (written(r"\.losses\."), errno.EROFS),
    "the film": (written(r"\.samples\."), errno.ENOSPC),
    "scalars": (call(RecordWriter, "write", 4), errno.EIO),
    "metrics.csv": (call(loggers._Rows, "save", 1, 3), errno.ENOSPC),
    "new columns of metrics.csv": (call(loggers, "_write_rows"), errno.ENOSPC),
}
OTHERS = {  # of Lightning's or one's own
    "one's own logger": (f"+logger.own._target_={__name__}.OwnLogger", call(OwnLogger, "write", 0, 99)),
    "Lightning's metrics.csv": (
        "+logger.table._target_=lightning.pytorch.loggers.CSVLogger",
        call(ExperimentWriter, "save", 0, 9),
    ),
    "a profile": ("trainer.profiler=simple", call(SimpleProfiler, "summary", 0, 9)),
}
RESUMED = {
    "its event file": call(os, "truncate"),
    "its metrics.csv": written(r"\.metrics\."),
    "its config.yaml": written(r"\.config\."),
}


@pytest.mark.parametrize("point", ENDS)
def test_a_run_ends_in_a_sentence_with_the_last_checkpoint_whole(tmp_path: Path, point: str) -> None:
    refuse, code, step = ENDS[point]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Fault) as ended:  # noqa: PT012
        refuse(patch, fault(code))
        training.train(configured(), tmp_path)
    assert_a_sentence(str(ended.value), code)
    assert ended.value.status == 4
    last = tmp_path / "checkpoints" / "last.ckpt"
    if step is None:
        assert not last.exists()
    else:
        assert not files.is_damaged(last)
        assert torch.load(last, weights_only=True)["global_step"] == step
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]


@pytest.mark.parametrize("point", GOES_ON)
def test_training_goes_on_without_what_only_shows_it(tmp_path: Path, point: str, run: Path) -> None:
    refuse, code = GOES_ON[point]
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        refuse(patch, fault(code))
        metrics = training.train(configured(), tmp_path)
    (sentence,) = {str(warning.message) for warning in told if "cannot be written" in str(warning.message)}
    assert_a_sentence(sentence, code)
    assert sentence.endswith(": training continues without it and will try again.")
    assert_same_weights(tmp_path, run)
    assert (tmp_path / "metrics.json").exists()
    assert metrics


@pytest.mark.parametrize("point", OTHERS)
def test_training_goes_on_without_what_others_write(tmp_path: Path, point: str, run: Path) -> None:
    option, refuse = OTHERS[point]
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        refuse(patch, fault(errno.ENOSPC))
        training.train(configured("logger=none", option), tmp_path)
    (sentence,) = {str(warning.message) for warning in told if "cannot be written" in str(warning.message)}
    assert_a_sentence(sentence, errno.ENOSPC)
    assert_same_weights(tmp_path, run)
    assert (tmp_path / "metrics.json").exists()


def test_a_bug_of_ones_own_logger_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyError, match="mine"):  # noqa: PT012
        call(OwnLogger, "write", 3)(patch, KeyError("mine"))  # type: ignore[arg-type]
        training.train(configured("logger=none", f"+logger.own._target_={__name__}.OwnLogger"), tmp_path)


def test_a_checkpoint_of_lightnings_callback_is_needed_too(tmp_path: Path) -> None:
    option = "+callbacks.mine._target_=lightning.pytorch.callbacks.ModelCheckpoint"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Fault) as ended:  # noqa: PT012
        written(r"\.epoch=")(patch, fault(errno.ENOSPC))
        training.train(configured(option), tmp_path)
    assert_a_sentence(str(ended.value), errno.ENOSPC)
    assert not files.is_damaged(tmp_path / "checkpoints" / "last.ckpt")


def assert_same_weights(folder: Path, run: Path) -> None:
    weights, expected = (
        torch.load(place / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for place in (folder, run)
    )
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.parametrize("point", RESUMED)
def test_a_run_that_cannot_go_on_stays_as_it_is(tmp_path: Path, point: str, run: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Fault) as ended:  # noqa: PT012
        RESUMED[point](patch, fault(errno.ENOSPC))
        training.train(resumption.resume(folder, ["trainer.max_steps=40"]), folder)
    assert_a_sentence(str(ended.value), errno.ENOSPC)
    changed = {path.name for path, content in before.items() if path.read_bytes() != content}
    assert changed <= {"config.yaml"}


def assert_a_sentence(text: str, code: int) -> None:
    assert "\n" not in text
    assert f"cannot be written ({os.strerror(code).lower()})" in text


# --------------------------------------------------------------------------------------------------------- scripts

SCRIPTS = {
    "sample.py, a picture": ("sample", ["n=4", "out={}.png"], errno.ENOSPC),
    "sample.py, arrays": ("sample", ["n=4", "out={}.npz"], errno.EROFS),
    "sample.py, tensors": ("sample", ["n=4", "out={}.pt"], errno.EACCES),
    "export.py": ("export", ["out={}.pt2"], errno.EACCES),
    "evaluate.py": ("evaluate", [], errno.ENOSPC),
    "report.py, a table": ("report", ["csv={}.csv"], errno.ENOSPC),
    "report.py, a figure": ("report", ["figure={}.png"], errno.EROFS),
    "report.py, curves": ("report", ["curves={}.svg"], errno.EIO),
}


@pytest.mark.parametrize("point", SCRIPTS)
def test_a_script_ends_in_a_sentence_and_leaves_no_part(
    tmp_path: Path, point: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, options, code = SCRIPTS[point]
    folder = shutil.copytree(run, tmp_path / "run")
    source = f"runs={folder}" if name == "report" else f"checkpoint={folder}"
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(sys, "argv", [f"{name}.py", source, *(o.format(tmp_path / "out") for o in options)])
    Disk(monkeypatch, {r"\.(out|evaluation)\.": 1}, fault(code))
    with pytest.raises(SystemExit) as ended:
        load_script(name).main()
    text = str(ended.value)
    assert text.startswith("Error: ")
    assert "\n" not in text
    assert "cannot be written: " in text
    assert os.strerror(code) in text
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("ending", ["png", "npz", "pt"])
def test_a_disk_that_is_really_full_is_a_sentence(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """A device that has no space, as the libraries meet it in mid-write."""
    (tmp_path / f"out.{ending}").symlink_to("/dev/full")
    options = [f"checkpoint={run}", "n=4", f"out={tmp_path}/out.{ending}"]
    monkeypatch.setattr(sys, "argv", ["sample.py", *options])
    with pytest.raises(SystemExit, match=r"^Error: .*out\.\w+ cannot be written: .*No space left on device"):
        load_script("sample").main()
