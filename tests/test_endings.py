"""How a run ends before its length: by a signal, by another's error, by a fault of the machine; and whose a folder is."""

import errno
import json
import os
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from helpers import trained
from hydra.core.global_hydra import GlobalHydra
from lightning import Callback
from omegaconf import DictConfig
from test_resume import assert_same_state, checkpoint

from gan_lightning import files, interruption, lock, resumption, training
from gan_lightning.errors import Fault, Stopped, UsageError, severity
from gan_lightning.files import HOST

Configure = Callable[..., DictConfig]
SMALL = (
    "trainer.accelerator=cpu",
    "trainer.max_steps=40",
    "data.rounds_per_epoch=20",
    "data.rounds_per_batch=4",
    "data.batch_size=8",
    "data.validation_samples=64",
    "model.generator.widths=[8]",
    "model.discriminator.widths=[8]",
    "callbacks.samples.n=20",
    "callbacks.samples.every_n_steps=8",
    "trainer.log_every_n_steps=4",
)
WEIGHTS = ("state_dict", "optimizer_states", "gan", "global_step")


class Once(Callback):
    """Does something once, when training comes to a step."""

    def __init__(self, step: int, act: Callable[[], Any]) -> None:
        self.step = step
        self.act: Callable[[], Any] | None = act

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if self.act and trainer.global_step >= self.step:
            act, self.act = self.act, None
            act()


def kill(signum: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), signum)


def train(config: DictConfig, folder: Path, *callbacks: Callback) -> dict[str, float]:
    folder.mkdir(exist_ok=True)
    return training.train(config, folder, extra_callbacks=callbacks)


@pytest.fixture(autouse=True)
def _forget_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "WARNED", set())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing has happened to."""
    return trained(tmp_path_factory.mktemp("whole"), *SMALL, "logger=tensorboard", "trainer.limit_val_batches=1.0")


# --------------------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("signum", interruption.ENDING, ids=lambda signum: signum.name)
@pytest.mark.parametrize("step", [12, 20], ids=["mid-epoch", "epoch's end"])
def test_a_stopped_run_says_where_it_is_and_goes_on(
    configure: Configure, tmp_path: Path, whole: Path, signum: signal.Signals, step: int
) -> None:
    run = tmp_path / "a run"
    before = {s: signal.getsignal(s) for s in interruption.ENDING}
    with pytest.raises(Stopped) as stopped:
        train(configure(*SMALL), run, Once(step, kill(signum)))
    assert {s: signal.getsignal(s) for s in interruption.ENDING} == before
    assert stopped.value.status == 128 + signum
    name = "Ctrl-C" if signum == signal.SIGINT else signum.name
    assert str(stopped.value).startswith(f"Stopped by {name} at step {step} of 40, with a checkpoint: go on by ")
    assert f"resume='{os.path.relpath(run)}'" in str(stopped.value)
    assert not (run / "metrics.json").exists()
    assert checkpoint(run)["global_step"] == step
    assert not (run / lock.NAME).exists()
    train(resumption.resume(run), run)
    for key in WEIGHTS:
        assert_same_state(checkpoint(run)[key], checkpoint(whole)[key], key)
    values = [json.loads((folder / "metrics.json").read_text()) for folder in (run, whole)]
    assert [v["step"] for v in values] == [40, 40]
    assert values[0]["val/ks"] == values[1]["val/ks"]


class Validations(Callback):
    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        self.steps.append(trainer.global_step)


def test_a_stop_adds_no_validation(configure: Configure, tmp_path: Path) -> None:
    validations = Validations()
    with pytest.raises(Stopped):
        train(configure(*SMALL), tmp_path / "run", Once(24, kill(signal.SIGTERM)), validations)
    assert validations.steps == [20]


def test_a_signal_in_the_last_batch_lets_the_run_be_done_but_nothing_follow(
    configure: Configure, tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        train(configure(*SMALL), tmp_path / "run", Once(40, kill(signal.SIGINT)))
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["step"] == 40


def test_the_second_signal_stops_at_once(configure: Configure, tmp_path: Path, capfd: Any) -> None:
    former = interruption.listen(interruption.end_at_once)

    def twice() -> None:
        kill(signal.SIGINT)()
        kill(signal.SIGINT)()

    try:
        with pytest.raises(SystemExit) as ended:
            train(configure(*SMALL), tmp_path / "run", Once(12, twice))
    finally:
        for signum, handler in former.items():
            signal.signal(signum, handler)
    assert ended.value.code == 130
    assert capfd.readouterr().err.splitlines()[-1] == "Stopped by Ctrl-C."


def test_a_run_that_goes_on_is_not_done(configure: Configure, tmp_path: Path) -> None:
    """Whatever an earlier, shorter one has left."""
    run = tmp_path / "run"
    train(configure(*SMALL), run)
    with pytest.raises(Stopped):
        train(resumption.resume(run, ["trainer.max_steps=80"]), run, Once(60, kill(signal.SIGINT)))
    assert not (run / "metrics.json").exists()


def test_a_finished_run_says_that_nothing_is_left(configure: Configure, tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "run"
    metrics = train(configure(*SMALL), run)
    before = (run / "metrics.json").read_bytes()
    capsys.readouterr()
    assert train(resumption.resume(run), run) == pytest.approx(metrics)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("Nothing is left to train: the run is done, at step 40; ")
    assert line.endswith("trainer.max_steps=80")
    assert (run / "metrics.json").read_bytes() == before
    (run / "metrics.json").unlink()  # as after a kill at the very end
    assert train(resumption.resume(run), run) == pytest.approx(metrics)
    assert json.loads((run / "metrics.json").read_text())["step"] == 40


def test_a_requeue_is_asked_for_under_slurm(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "scontrol"
    program.write_text(f"#!/bin/sh\necho $* > {tmp_path}/asked\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name, value in {"NTASKS": "1", "JOB_ID": "77", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURM_JOB_NAME", "mine")
    with pytest.raises(Stopped):
        train(configure(*SMALL), tmp_path / "run", Once(12, kill(signal.SIGUSR1)))
    assert (tmp_path / "asked").read_text() == "requeue 77\n"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_while_starting_is_one_line(signum: signal.Signals) -> None:
    code = "import os, sys; sys.argv = ['x']; from gan_lightning.interruption import *; listen(end_at_once)\n"
    code += f"os.kill(os.getpid(), {int(signum)})\nprint('went on')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    name = "Ctrl-C" if signum == signal.SIGINT else signum.name
    assert (ended.returncode, ended.stdout, ended.stderr) == (128 + signum, "", f"Stopped by {name}.\n")


def test_the_worst_end_is_the_sweeps() -> None:
    assert max([0, 3, 1, 0], key=severity) == 1
    assert max([0, 3], key=severity) == 3
    assert max([4, 3, 1], key=severity) == 4
    assert max([4, 130, 3], key=severity) == 130


# ----------------------------------------------------------------------------------------------- whose a folder is


def owner(folder: Path) -> subprocess.Popen[str]:
    """Another process that has the folder until it is killed."""
    code = (
        "import sys, time; from pathlib import Path; from gan_lightning.lock import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('has it', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "has it\n"
    return process


def test_a_folder_is_one_processs_as_long_as_it_lives(configure: Configure, tmp_path: Path, whole: Path) -> None:
    with owner(whole) as process:
        with pytest.raises(UsageError, match=rf"trained by process {process.pid} on {HOST}: "):
            train(resumption.resume(whole, ["trainer.max_steps=80"]), whole)
        with pytest.raises(UsageError, match=f"process {process.pid}"), lock.claimed(whole, others=False):
            pass
        process.kill()
        process.wait()
    assert (whole / lock.NAME).exists()
    with lock.locked(whole), lock.locked(whole):
        assert (whole / lock.NAME).read_text() == f"{os.getpid()}@{HOST}\n"
    assert not (whole / lock.NAME).exists()


def test_the_other_processes_of_a_run_share_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with owner_free(tmp_path), lock.locked(tmp_path), lock.claimed(tmp_path, others=True) as place:
        assert place == tmp_path


def owner_free(folder: Path) -> Any:
    """A lock as the first process has it."""
    return lock.locked(folder)


def test_a_worker_does_not_keep_the_lock(tmp_path: Path) -> None:
    read, write = os.pipe()
    with lock.locked(tmp_path):
        child = os.fork()
        if child == 0:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
    with lock.locked(tmp_path):
        pass
    os.close(write)
    os.waitpid(child, 0)


def test_runs_of_one_second_get_folders_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "2026-01-01_00-00-00"
    with (
        lock.claimed(folder, others=True) as first,
        owner(tmp_path / f"{folder.name}-2" if (tmp_path / f"{folder.name}-2").mkdir() is None else folder) as process,
        lock.claimed(folder.with_name(folder.name), others=False) as again,
    ):
        assert first == again == folder
        process.kill()
    (folder / "config.yaml").touch()
    with lock.claimed(folder, others=True) as second:
        assert second == folder.with_name(f"{folder.name}-2")
    with owner(second) as process:
        with lock.claimed(folder, others=True) as third:
            assert third == folder.with_name(f"{folder.name}-3")
        process.kill()


def test_files_of_other_hosts_are_leftovers_when_they_are_old(tmp_path: Path) -> None:
    new, old = tmp_path / ".a.1@elsewhere.json", tmp_path / ".b.1@elsewhere.json"
    for path in (new, old):
        path.touch()
    os.utime(old, (0, 0))
    mine = tmp_path / f".c.{os.getpid()}@{HOST}.json"
    mine.touch()
    os.utime(mine, (0, 0))
    assert files.leftovers(tmp_path) == [old]
