"""Warn of two failures that the losses alone do not show."""

import math
from typing import Any

from lightning import Callback, LightningModule, Trainer

from gan_lightning.checks import SIZE, check_values
from gan_lightning.errors import warn
from gan_lightning.gan import GAN

PERFECT = 0.995  # discriminator accuracy
CONFIDENT = 0.95
VANISHED = 0.01  # of the largest gradient norm so far

WHAT_TO_DO = (
    "Common remedies are a lower learning rate of the discriminator, smoothed labels (loss.label_smoothing=0.1), "
    "a penalty (regularizer=r1), or loss=non_saturating instead of minimax."
)


class Diagnosis(Callback):
    """Warns once if the generator's gradient nearly vanishes or the discriminator is perfect for ``lines`` log lines.

    A small gradient alone is not a failure: it is also small at the equilibrium, but there the discriminator is unsure.
    If only differences of logits matter, accuracy is undefined and there are no warnings.
    """

    def __init__(self, lines: int = 20) -> None:
        self.lines = lines
        check_values(self, lines=SIZE)
        self._line = -1
        self._perfect = 0
        self._largest = 0.0
        self._told: set[str] = set()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, GAN)
        if module.log_step <= self._line or module.game.loss.is_shift_invariant or not trainer.is_global_zero:
            return
        self._line = module.log_step
        accuracy = module.log_line["discriminator/accuracy"]
        gradient = module.log_line["gradient_norm/generator"]
        self._perfect = self._perfect + 1 if accuracy >= PERFECT else 0
        if math.isfinite(gradient):  # not where a gradient scaler skips the step
            self._largest = max(self._largest, gradient)
        if self._perfect == self.lines:
            self._tell(f"The discriminator has been right on {accuracy:.1%} of samples for {self.lines} log lines")
        if accuracy >= CONFIDENT and gradient < VANISHED * self._largest:
            self._tell(f"The generator's gradient has almost vanished ({gradient:.2g}, once {self._largest:.2g})")

    def state_dict(self) -> dict[str, Any]:
        return {"line": self._line, "perfect": self._perfect, "largest": self._largest, "told": sorted(self._told)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._line, self._perfect, self._largest = state["line"], state["perfect"], state["largest"]
        self._told = set(state["told"])

    def _tell(self, finding: str) -> None:
        kind = finding.split()[1]
        if kind not in self._told:
            self._told.add(kind)
            warn(f"{finding}, at step {self._line}. {WHAT_TO_DO}")
