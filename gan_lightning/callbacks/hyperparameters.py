"""Log a run's options to every logger."""

from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger

from gan_lightning.loggers import log_options, marks, show_hparams, versions


class HyperParameters(Callback):
    """Logs the options at the start, and in TensorBoard's HPARAMS tab as soon as the metrics' names are known.

    Empty options are not logged. Its state has the loggers' versions and the extent of their files, which a resumed run
    continues.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self._are_shown = False
        self._loggers: list[Logger] = []

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._loggers = trainer.loggers
        if self.options and trainer.global_step == 0 and trainer.is_global_zero:
            log_options(trainer.loggers, self.options)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._show(trainer, [name for name in trainer.callback_metrics if name.startswith("val/")])

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.datamodule.monitor is None or trainer.limit_val_batches == 0:  # type: ignore[attr-defined]
            self._show(trainer, ["loss/generator"])  # else a validation follows, if there was none

    def state_dict(self) -> dict[str, Any]:
        state = {"options": self.options, "are_shown": self._are_shown, "versions": versions(self._loggers)}
        return state | {"marks": marks(self._loggers)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._are_shown = state["are_shown"]
        if self.options:
            self.options = state["options"] or self.options  # as logged at the start

    def _show(self, trainer: Trainer, metrics: list[str]) -> None:
        if self.options and trainer.is_global_zero and not self._are_shown:
            show_hparams(trainer.loggers, self.options, metrics)
        self._are_shown = True
