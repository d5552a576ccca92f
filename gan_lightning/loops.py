"""Lightning's epoch loop for runs that resume from a checkpoint."""

from collections.abc import Callable
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loops.fit_loop import _FitLoop


class ResumedLoop(_FitLoop):
    """An epoch loop that keeps a stopped run stopped, uses the current ``patience`` and completes an interrupted end.

    If a run was killed after its last checkpoint but before it ended, as ``has_ended`` tells, its callbacks'
    ``on_train_end`` are called although nothing is left to train.
    """

    def __init__(self, trainer: Trainer, is_stopped: bool, has_ended: Callable[[], bool]) -> None:
        former = trainer.fit_loop
        super().__init__(trainer, former.min_epochs, former.max_epochs)
        self.epoch_loop = former.epoch_loop
        self.is_stopped = is_stopped
        self.has_ended = has_ended
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
