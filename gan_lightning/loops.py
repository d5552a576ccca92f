"""Lightning's epoch loop for runs that resume from a checkpoint."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loops.fit_loop import _FitLoop


class ResumedLoop(_FitLoop):
    """An epoch loop that keeps a stopped run stopped, uses the current ``patience`` and completes an interrupted end.

    If a run was killed after its last checkpoint but before it ended, as ``has_ended`` tells, its callbacks'
    ``on_train_end`` are called although nothing is left to train. With ``max_steps``, Lightning repeats the end of an
    epoch whose checkpoint it resumes, although that epoch's metrics are gone: callbacks that monitor one are spared.
    """

    def __init__(self, trainer: Trainer, is_stopped: bool, has_ended: Callable[[], bool]) -> None:
        former = trainer.fit_loop
        super().__init__(trainer, former.min_epochs, former.max_epochs)
        self.epoch_loop = former.epoch_loop
        self.is_stopped = is_stopped
        self.has_ended = has_ended
        self.repeats = False  # whether the end of this epoch is a repetition
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        self.patience = {callback: callback.patience for callback in callbacks if isinstance(callback, EarlyStopping)}

    @property
    def skip(self) -> bool:
        return super().skip and self.has_ended()

    def run(self) -> None:
        self.trainer.should_stop |= self.is_stopped
        for callback, patience in self.patience.items():
            callback.patience = patience  # overwritten by the loaded state
        super().run()

    def advance(self) -> None:
        before = self.epoch_loop.batch_progress.total.ready
        super().advance()
        self.repeats = self.epoch_loop.batch_progress.total.ready == before

    def on_advance_end(self) -> None:
        with spared(self.trainer.callbacks) if self.repeats else nullcontext():  # type: ignore[attr-defined]
            super().on_advance_end()


@contextmanager
def spared(callbacks: list[Callback]) -> Iterator[None]:
    """Skip ``on_train_epoch_end`` of callbacks that monitor a metric."""
    monitors: list[Any] = [callback for callback in callbacks if isinstance(callback, EarlyStopping | ModelCheckpoint)]
    for callback in monitors:
        callback.on_train_epoch_end = lambda *_: None
    try:
        yield
    finally:
        for callback in monitors:
            del callback.on_train_epoch_end
