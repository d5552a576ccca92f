"""Lightning's loop over a run's epochs, where the run goes on from a checkpoint."""

from collections.abc import Callable
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loops.fit_loop import _FitLoop


class ResumedLoop(_FitLoop):
    """What has stopped early stays so, ``patience`` is the one that is given now, and an end is made up for.

    The end of a run is cut off by a kill that comes after its last checkpoint: its callbacks' ``on_train_end`` follow
    where the run ``has_ended`` not yet, although there is nothing left to train.
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
            callback.patience = patience  # which its state has changed
        super().run()
