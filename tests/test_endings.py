"""How a run ends before its length, by a signal, an error, a fault of the machine; and whose a folder is."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from helpers import TOY, trained
from lightning import Callback, Trainer
from omegaconf import DictConfig
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter
from test_resume import assert_same_state, checkpoint

from gan_lightning import files, interruption, lock, resumption, training
from gan_lightning.cache import cached
from gan_lightning.errors import Fault, Stopped, UsageError, severity
from gan_lightning.files import HOST

Configure = Callable[..., DictConfig]
SMALL = (*TOY, "callbacks.samples.every_n_steps=8", "trainer.log_every_n_steps=4")
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


@pytest.mark.parametrize(
    ("signum", "step"),
    [(signal.SIGINT, 12), (signal.SIGTERM, 20), (signal.SIGHUP, 12), (signal.SIGUSR1, 20)],  # 20 ends an epoch
    ids=["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"],
)
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
    assert str(stopped.value).startswith(f"Stopped by {name} at step {step} of 40, with a checkpoint: resume with ")
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


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("has_ended", [True, False])
def test_a_change_that_no_step_would_follow_is_refused_and_not_written(
    configure: Configure, tmp_path: Path, has_ended: bool
) -> None:
    """Also where the run was killed at its very end."""
    run = tmp_path / "run"
    train(configure(*SMALL), run)
    if not has_ended:
        (run / "metrics.json").unlink()
    before = content(run)
    for change, says in (
        ("generator_optimizer.lr=0.5", r"generator_optimizer\.lr=0\.5 would have no effect, since the run finished"),
        ("trainer.max_epochs=1", "trainer.max_epochs is 1, but the run is already at epoch 2"),
        ("trainer.max_steps=39", "trainer.max_steps is 39, but the run is already at step 40"),
    ):
        with pytest.raises(UsageError, match=says):
            train(resumption.resume(run, [change]), run)
        assert content(run) == before
    train(resumption.resume(run, ["generator_optimizer.lr=0.5", "trainer.max_steps=48"]), run)
    assert checkpoint(run)["global_step"] == 48
    assert resumption.resume(run).generator_optimizer.lr == 0.5


def test_changed_options_of_one_optimizer_hold_from_the_resume_on(configure: Configure, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(configure(*SMALL), run)
    before = checkpoint(run)["optimizer_states"]
    changes = ["generator_optimizer.lr=0.5", "generator_optimizer.betas=[0.3,0.8]", "trainer.max_steps=48"]
    train(resumption.resume(run, changes), run)
    (g, d), (former_g, former_d) = (
        [state["param_groups"] for state in states] for states in (checkpoint(run)["optimizer_states"], before)
    )
    assert g == [group | {"lr": 0.5, "betas": (0.3, 0.8)} for group in former_g]
    assert d == former_d


def test_a_finished_run_without_a_checkpoint_is_not_trained_again(configure: Configure, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(configure(*(option for option in SMALL if "callbacks" not in option), "callbacks=none"), run)
    before = content(run)
    with pytest.raises(UsageError, match=r"has finished and has no last\.ckpt to continue from"):
        train(resumption.resume(run), run)
    assert content(run) == before


def test_a_finished_run_says_that_nothing_is_left(configure: Configure, tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "run"
    metrics = train(configure(*SMALL), run)
    before = content(run)
    for changes in ((), ("trainer.max_epochs=2",), ("name=other", "callbacks.samples.n=5")):
        capsys.readouterr()
        assert train(resumption.resume(run, changes), run) == pytest.approx(metrics)
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith("Nothing is left to train: the run finished at step 40; ")
        assert line.endswith("trainer.max_steps=80")
        assert content(run) == before
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
        "import os, sys; os.environ.pop('RANK', None)\n"
        "from pathlib import Path; from gan_lightning.lock import locked\n"
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
        with pytest.raises(UsageError, match=rf"in use by process {process.pid} on {HOST}: "):
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
    monkeypatch.setenv("RANK", "1")
    with owner(tmp_path) as process:
        with lock.locked(tmp_path), lock.claimed(tmp_path, others=True) as place:
            assert place == tmp_path
        process.kill()


def test_a_worker_does_not_keep_the_lock(tmp_path: Path) -> None:
    (read, write), (started, start) = os.pipe(), os.pipe()
    with lock.locked(tmp_path):
        child = os.fork()
        if child == 0:  # which would hold what it has inherited until it ends
            os.close(write)
            os.write(start, b"x")
            os.read(read, 1)
            os._exit(0)
        os.read(started, 1)
        os.close(lock.HELD.pop(tmp_path))  # as the end of this process does
        with lock.locked(tmp_path):
            pass
        lock.HELD[tmp_path] = os.open(tmp_path, os.O_RDONLY)
    os.close(write)
    os.waitpid(child, 0)
    for descriptor in (read, started, start):
        os.close(descriptor)


def test_runs_of_one_second_get_folders_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "2026-01-01_00-00-00"
    with lock.claimed(folder, others=True) as first:
        assert first == folder
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


# ------------------------------------------------------------------------------------------- errors of one's own code


class Broken(RuntimeError):
    """An error that this package knows nothing of."""


def fail() -> None:
    raise Broken


def failing(name: str, at: int) -> Callable[..., Any]:
    """A method of the game that fails when it is called for the at-th time."""
    from gan_lightning.game import Game

    calls, method = [0], getattr(Game, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == at:
            raise Broken
        return method(*args, **kwargs)

    return call


NEVER = "callbacks.checkpoint.every_seconds=1e9"
SAVED = {  # the step that is saved where each fails
    "a callback": 16,
    "D's loss in the middle of a batch": 18,
    "the reading of data": 16,
    "G's loss, when D has stepped": None,
}


@pytest.mark.parametrize("where", SAVED)
def test_an_error_in_mid_run_keeps_what_was_trained_and_its_traceback(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path, where: str
) -> None:
    from gan_lightning.data.synthetic import Synthetic

    run, callbacks, step = tmp_path / "run", [], SAVED[where]
    with monkeypatch.context() as patch, pytest.raises(Broken) as failed:  # noqa: PT012
        if where == "a callback":
            callbacks = [Once(16, fail)]
        elif where == "the reading of data":
            fetcher = Synthetic.fetcher

            def broken(data: Any) -> Any:
                fetch = fetcher(data)
                return lambda start, stop: fail() if start == 16 else fetch(start, stop)

            patch.setattr(Synthetic, "fetcher", broken)
        else:
            player = "discriminator" if where.startswith("D") else "generator"
            patch.setattr("gan_lightning.game.Game." + f"{player}_terms", failing(f"{player}_terms", 19))
        train(configure(*SMALL, NEVER), run, *callbacks)
    assert failed.traceback[-1].name in ("fail", "call")
    if step is None:
        assert not (run / "checkpoints" / "last.ckpt").exists()
    else:
        assert checkpoint(run)["global_step"] == step
    assert not (run / "metrics.json").exists()
    train(resumption.resume(run), run)
    for key in ("state_dict", "optimizer_states", "global_step"):
        assert_same_state(checkpoint(run)[key], checkpoint(whole)[key], key)


def test_of_several_devices_none_saves_where_one_fails(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others wait for it in an exchange, and a checkpoint is one of all."""
    with pytest.raises(Broken), monkeypatch.context() as patch:  # noqa: PT012
        patch.setattr(Trainer, "world_size", property(lambda trainer: 2 if trainer.global_step >= 16 else 1))
        train(configure(*SMALL, NEVER), tmp_path / "run", Once(16, fail))
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


# ------------------------------------------------------------------------------------------- faults of the machine

FULL = OSError(errno.ENOSPC, "No space left on device")


class Disk:
    """Refuses to take files of some names, so many times each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refused: dict[str, int], error: OSError = FULL) -> None:
        self.left = dict(refused)
        self.refusals = 0
        self.error = error
        sync = files._sync

        def checked(path: Path) -> None:
            self.write(path.name)
            sync(path)

        monkeypatch.setattr(files, "_sync", checked)

    def write(self, name: str) -> None:
        for pattern, left in self.left.items():
            if re.match(pattern, name) and left > 0:
                self.left[pattern] -= 1
                self.refusals += 1
                raise self.error


NEEDED = {
    r"\.config\.": None,
    r"\.last\.": None,
    r"\.best\.": None,
    r"\.metrics\.": 40,
}


@pytest.mark.parametrize("pattern", NEEDED)
def test_a_full_disk_ends_a_run_in_a_sentence_with_the_last_checkpoint_whole(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        Disk(patch, {pattern: 1})
        with pytest.raises(Fault, match=r"cannot be written \(no space left on device\)") as fault:
            train(configure(*SMALL), run)
    assert fault.value.status == 4
    assert "\n" not in str(fault.value)
    last = run / "checkpoints" / "last.ckpt"
    assert (checkpoint(run)["global_step"] if last.exists() else None) == NEEDED[pattern]
    assert not [path for path in run.rglob(".*") if path.is_file()]


def test_a_later_checkpoint_that_cannot_be_written_leaves_the_former(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    config = configure(*SMALL, "callbacks.checkpoint.every_seconds=0")
    with monkeypatch.context() as patch, pytest.raises(Fault):  # noqa: PT012
        disk = Disk(patch, {})
        train(config, run, Once(28, lambda: disk.left.update({r"\.last\.": 9})))
    assert checkpoint(run)["global_step"] == 24
    train(resumption.resume(run), run)
    assert checkpoint(run)["global_step"] == 40


def test_what_a_run_can_do_without_costs_one_warning_and_is_tried_again(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    disk = Disk(monkeypatch, {r"\.0000000\.": 1, r"\.0000008\.": 1, r"\.losses\.": 1, r"\.samples\.": 1})
    write = RecordWriter.write
    records = [0]

    def record(writer: Any, data: bytes) -> None:
        records[0] += 1
        if records[0] in (20, 21):
            raise FULL
        write(writer, data)

    monkeypatch.setattr(RecordWriter, "write", record)
    extra = ("+callbacks.curves._target_=gan_lightning.callbacks.curves.LossCurves",)
    extra += ("+callbacks.film._target_=gan_lightning.callbacks.animation.Animation",)
    with pytest.warns(UserWarning, match="cannot be written") as warned:
        train(configure(*SMALL, *extra), run)
    told = [str(warning.message) for warning in warned]
    assert disk.refusals == 4
    assert len(told) == len(set(told)) == 4
    assert all("no space left on device" in text and text.endswith("and will try again.") for text in told)
    printed = [warnings.formatwarning(w.message, w.category, w.filename, w.lineno) for w in warned]
    assert all(line.count("\n") == 1 for line in printed)
    assert sorted(path.stem for path in (run / "samples").iterdir()) == [f"{n:07}" for n in (16, 24, 32, 40)]
    assert json.loads((run / "metrics.json").read_text())["step"] == 40
    steps = {event.step for event in EventAccumulator(str(run)).Reload().Scalars("loss/generator")}
    assert len(steps) >= 8  # of ten lines


@pytest.mark.parametrize("code", sorted(files.MACHINE))
def test_every_refusal_of_the_machine_is_one(code: int) -> None:
    with pytest.raises(Fault, match=re.escape(os.strerror(code).lower())), files.needed("x"):
        raise OSError(code, os.strerror(code))
    with pytest.warns(UserWarning, match="x cannot be written"), files.spared("x"):  # noqa: PT031
        try:
            raise OSError(code, os.strerror(code))
        except OSError as error:
            raise RuntimeError("as torch hides it") from error
    with pytest.raises(Broken), files.spared("x"):
        raise Broken
    with pytest.raises(ValueError, match="y"), files.needed("x"):
        raise ValueError("y")


@pytest.mark.parametrize("what", ["moved", "checkpoints replaced by a file"])
def test_a_folder_that_goes_in_mid_run_ends_it(configure: Configure, tmp_path: Path, what: str) -> None:
    run = tmp_path / "run"

    def spoil() -> None:
        if what == "moved":
            run.rename(tmp_path / "moved")
        else:
            (run / "checkpoints").rename(run / "former")
            (run / "checkpoints").touch()

    with pytest.raises(Fault) as fault:
        train(configure(*SMALL, "callbacks.checkpoint.every_seconds=0", "callbacks=default"), run, Once(28, spoil))
    assert "\n" not in str(fault.value)
    former = tmp_path / "moved" / "checkpoints" if what == "moved" else run / "former"
    assert torch.load(former / "last.ckpt", weights_only=True)["global_step"] == 24


def test_a_folder_that_cannot_be_written_is_refused_before_the_start(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(UsageError, match=r"cannot be written \(read-only file system\)"):
        train(configure(*SMALL), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] in ([], [lock.NAME])


def test_a_damaged_cache_is_named_and_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, content = tmp_path / "cache" / "a.pt", torch.arange(1000.0)
    assert torch.equal(cached(path, lambda: content), content)
    assert torch.equal(cached(path, fail), content)
    (path.parent / ".b.9999999.pt").touch()
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 0x40
    path.write_bytes(damaged)
    assert torch.equal(cached(path, lambda: content), content)
    assert capsys.readouterr().out == f"{path} is damaged: it is recreated.\n"
    path.write_text("no archive")
    assert torch.equal(cached(path, lambda: content), content)
    assert torch.equal(cached(path, fail), content)
    assert list(path.parent.iterdir()) == [path]
    path.unlink()
    Disk(monkeypatch, {r"\.a\.": 1})
    capsys.readouterr()
    assert torch.equal(cached(path, lambda: content), content)
    assert f"{path} cannot be written" in capsys.readouterr().out
    assert list(path.parent.iterdir()) == []
