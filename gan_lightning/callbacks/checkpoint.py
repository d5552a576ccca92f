"""Checkpoints that a kill, a full disk or divergence cannot corrupt."""

import math
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from gan_lightning.errors import ENDINGS, Fault, Stopped, UsageError
from gan_lightning.files import needed, written_aside
from gan_lightning.interruption import is_first_process, listen, say
from gan_lightning.lock import is_in_place


def checkpoints(run: str | Path) -> Path:
    """The folder of a run's checkpoints."""
    return Path(run) / "checkpoints"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file and renames it, so that the old or the new one is always complete.

    The former ``last.ckpt`` is kept as ``previous.ckpt``.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        with needed(path), written_aside(path) as aside:  # for any callback
            with aside.open("wb") as file:
                torch.save(checkpoint, file)
            if Path(path).name == "last.ckpt":
                keep(Path(path), "previous.ckpt")  # after a kill, at least one is complete


def keep(last: Path, name: str) -> None:
    """Keep the current last checkpoint under another name."""
    if not last.is_file():
        return
    with written_aside(last.with_name(name)) as aside:
        try:
            os.link(last, aside)
        except OSError:  # some file systems do not support it
            shutil.copyfile(last, aside)


def write(trainer: Trainer, name: str) -> None:
    """Write a checkpoint with this name to the run's folder.

    Raises:
        Fault: the folder was moved or deleted.
    """
    if not is_in_place(Path(trainer.default_root_dir)):
        raise Fault(f"{trainer.default_root_dir} was moved or deleted during training: resume it in its new place.")
    trainer.save_checkpoint(checkpoints(trainer.default_root_dir) / name)


class RunCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` every ``every_seconds`` and at the end, and ``best.ckpt`` by the data's monitor.

    The first Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 stops the run after the current batch, and its validation if it has
    one, with a checkpoint; the second stops it immediately.
    """

    def __init__(self, every_seconds: float = 60.0) -> None:
        if every_seconds < 0:
            raise UsageError(f"callbacks.checkpoint.every_seconds is {every_seconds}: give a number, at least 0.")
        self.every_seconds = every_seconds
        self.best: float | None = None
        self.measured_by: list[Any] | None = (
            None  # best's features or metric, number of samples, digest of held-out ones
        )
        self.stopped = False  # whether the run ends early, at this checkpoint
        self._saved_at = 0.0
        self._saved: tuple[int, float | None] | None = None  # step and best of the last checkpoint
        self._began: int | None = None  # the step that training started from
        self.signum: int | None = None  # the signal that requested a stop
        self._former_handlers: dict[int, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "measured_by": self.measured_by, "stopped": self.stopped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.measured_by = state["best"], state.get("measured_by")

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._saved_at = time.monotonic()
        self._began = trainer.global_step
        if threading.current_thread() is threading.main_thread():
            self._former_handlers = listen(self._request_stop)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loop: Any = trainer.fit_loop.epoch_loop
        if loop.batch_progress.is_last_batch:
            return  # saved at the end of the epoch, after its validation, so that a resumed run does not lose that
        if self._ends(trainer):
            self._save(trainer)
        elif not loop._should_check_val_fx(trainer.fit_loop._data_fetcher):  # else after that validation
            self._save_or_stop(trainer)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        if self._improved(trainer):
            self._write(trainer, "best.ckpt")
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch and not self._ends(trainer):
            self._save_or_stop(trainer)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            # stopped within the epoch: saved and resumed there, unless a validation stopped it or followed
            if self._saved != (trainer.global_step, self.best):
                self._save(trainer)
            return
        ends = self._ends(trainer) or trainer.current_epoch + 1 == trainer.max_epochs
        stops = self._any_rank(trainer, self.signum is not None)
        if ends or stops or self._is_due(trainer):
            self._save(trainer)
        if stops and not ends:
            self._stop()

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._restore_handlers()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._restore_handlers()
        is_of_others = isinstance(exception, Exception) and not isinstance(exception, ENDINGS)
        is_new = self._began is not None and trainer.global_step > max(self._began, (self._saved or (0,))[0])
        # the other processes of the run do not know that this one has failed
        if is_of_others and is_new and getattr(module, "is_between_rounds", False) and trainer.world_size == 1:
            try:
                self._save(trainer)
            except Exception as error:  # the first exception is the cause
                exception.add_note(f"No checkpoint could be written at step {trainer.global_step}: {error}")

    def keep_final(self, trainer: Trainer) -> None:
        """Keep last.ckpt as best.ckpt if the metrics of the final weights, computed after training, are the best.

        last.ckpt keeps its own best, so that a run in parts is the whole run, which has no validation there.
        """
        if self._improved(trainer) and trainer.is_global_zero:
            keep(checkpoints(trainer.default_root_dir) / "last.ckpt", "best.ckpt")

    @staticmethod
    def _ends(trainer: Trainer) -> bool:
        """Whether this batch is the last of the run."""
        return trainer.should_stop or trainer.global_step == trainer.max_steps

    def _save_or_stop(self, trainer: Trainer) -> None:
        """Save within an epoch if a checkpoint is due; if a signal was received, save and stop."""
        stops = self._any_rank(trainer, self.signum is not None)
        if stops or self._is_due(trainer):
            self._save(trainer)
        if stops:
            self._stop()  # without the validation that Lightning adds when a run stops

    def _is_due(self, trainer: Trainer) -> bool:
        return self._any_rank(trainer, time.monotonic() - self._saved_at >= self.every_seconds)

    @staticmethod
    def _any_rank(trainer: Trainer, flag: bool) -> bool:
        return trainer.strategy.reduce_boolean_decision(flag, all=False)

    def _request_stop(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        self._restore_handlers()
        if is_first_process():
            say("Stopping after this batch, with a checkpoint; repeat to stop immediately.")

    def _stop(self) -> None:
        raise Stopped(self.signum or signal.SIGTERM)  # a signal that another process received

    def _improved(self, trainer: Trainer) -> bool:
        monitor = trainer.datamodule.monitor  # type: ignore[attr-defined]
        if monitor is None or monitor[0] not in trainer.callback_metrics:
            return False
        data = trainer.datamodule  # type: ignore[attr-defined]
        name, mode = monitor
        measured_by = [data.features_name or name, data.validation_samples, data.held_out_digest]
        if self.measured_by not in (None, measured_by):
            self.best = None  # scores by another metric, other features or other samples are not comparable
        self.measured_by = measured_by
        value = trainer.callback_metrics[name].item()
        better = self.best is None or (value < self.best if mode == "min" else value > self.best)
        if math.isnan(value):
            return False
        if better:
            self.best = value
        return better

    def _save(self, trainer: Trainer) -> None:
        self._write(trainer, "last.ckpt")
        self._saved_at, self._saved = time.monotonic(), (trainer.global_step, self.best)

    def _write(self, trainer: Trainer, name: str) -> None:
        self.stopped = trainer.should_stop
        write(trainer, name)

    def _restore_handlers(self) -> None:
        for signum, handler in self._former_handlers.items():
            signal.signal(signum, handler)
        self._former_handlers.clear()
