"""One player's update; the one room that knows what Lightning does around a step.

It uses of Lightning 2.6 what is private there: the counters of ``trainer.fit_loop.epoch_loop``.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.plugins.precision import DoublePrecision, MixedPrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.optim import Optimizer

from gan_lightning.game import Terms


@contextmanager
def frozen(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """The weights take no gradient inside, whatever is raised; those that took none before take none after."""
    weights = [weight for weight in weights if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


class Player:
    """One of a game's players while it trains: its weights, its optimizer and its rivals' weights."""

    def __init__(
        self,
        name: str,
        networks: Sequence[nn.Module],
        optimizer: Optimizer,
        module: LightningModule,
        clip_val: float | None = None,
        clip_algorithm: Literal["norm", "value"] = "norm",
    ) -> None:
        self.name = name
        self.optimizer = optimizer
        self.module = module
        self.clip_val, self.clip_algorithm = clip_val, clip_algorithm
        self.weights = [w for network in networks for w in network.parameters() if w.requires_grad]  # but frozen ones
        self.rivals: Sequence[nn.Parameter] = ()  # frozen while this player learns
        self.measures = False
        self.gradient_norm = torch.zeros(())  # of the last update that measured it
        self.is_bare = lightning_adds_nothing(module)
        self.is_mixed = isinstance(module.trainer.precision_plugin, MixedPrecision)
        # a fused step on a state of another layout, as a checkpoint may have it, mixes up the elements and says nothing
        for weight, state in optimizer.state.items():
            for key, value in state.items():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    state[key] = torch.empty_like(weight, dtype=value.dtype).copy_(value)

    def update(self, micro_batches: Iterable[Terms], n: int) -> list[dict[str, Tensor]]:
        """One step on the mean loss of n micro-batches, whose terms are computed one after the other.

        Returns each micro-batch's terms, detached.
        """
        for weight in self.weights:  # optimizer.zero_grad's profiler mark costs a toy more than the act
            weight.grad = None
        terms = []
        with frozen(self.rivals) if self.rivals else nullcontext():
            for losses, _ in micro_batches:
                loss = sum(losses.values()) if len(losses) > 1 else next(iter(losses.values()))
                self._backward(loss / n if n > 1 else loss)  # type: ignore[arg-type]
                terms.append({name: value.detach() for name, value in losses.items()})
        self._step()
        return terms

    def _backward(self, loss: Tensor) -> None:
        # the second differentiation of a penalty must not fall back to half precision
        with torch.autocast(loss.device.type, enabled=False) if self.is_mixed else nullcontext():
            if self.is_bare:
                loss.backward()
            else:
                self.module.manual_backward(loss)

    def _step(self) -> None:
        if self.is_bare:
            self.module.on_before_optimizer_step(self.optimizer)
            self.optimizer.step()
        else:
            trainer: Any = self.module.trainer
            with trainer.profiler.profile("optimizer_step"):
                trainer.strategy.optimizer_step(self.optimizer, _no_closure, self.module)

    def before_step(self) -> None:
        """Measure and clip the gradients, unscaled under fp16, which Lightning leaves to a fused optimizer."""
        if self.clip_val is None and not self.measures:
            return
        scaler = getattr(self.module.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(self.optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(self.optimizer)
        if self.measures:
            gradients = [weight.grad for weight in self.weights if weight.grad is not None]
            self.gradient_norm = nn.utils.get_total_norm(gradients)
        if self.clip_val is None:
            return
        if self.clip_algorithm == "norm":
            nn.utils.clip_grad_norm_(self.weights, self.clip_val)
        else:
            nn.utils.clip_grad_value_(self.weights, self.clip_val)


def lightning_adds_nothing(module: LightningModule) -> bool:
    """Whether backward passes and steps may do without Lightning's wrappers, which cost a toy GAN half its time.

    True on one device, without a gradient scaler and a profiler, where nobody listens to what they announce.
    """
    trainer: Any = module.trainer
    hooks = ("on_before_backward", "on_after_backward", "on_before_optimizer_step")
    own = ("backward", "on_before_backward", "on_after_backward")  # the third is called by the player
    return (
        type(trainer.strategy) is SingleDeviceStrategy
        and type(trainer.precision_plugin) in (Precision, MixedPrecision, DoublePrecision)
        and getattr(trainer.precision_plugin, "scaler", None) is None
        and type(trainer.profiler) is PassThroughProfiler
        and not any(is_overridden(hook, callback) for hook in hooks for callback in trainer.callbacks)
        and not any(is_overridden(method, module) for method in own)
    )


def count_step(trainer: Trainer) -> None:
    """Count one more global step: LightningOptimizer.step would count D's too (Lightning #17958)."""
    progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
    progress.increment_ready()
    progress.increment_completed()


def log_by_steps(trainer: Trainer) -> None:
    """Make what Lightning logs by itself count global steps, where it counts batches."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step


def mend_epochs(checkpoint: dict[str, Any], trainer: Trainer) -> None:
    """Let Lightning count an epoch once that ended with a checkpoint.

    Where ``max_steps`` is set it runs the end of that epoch again, which had raised ``processed`` already; the next
    extension by ``max_epochs`` would end too early.
    """
    if trainer.max_steps != -1 and "loops" in checkpoint:
        progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
        for counts in (progress["total"], progress["current"]):
            counts["processed"] = min(counts["processed"], counts["started"] - 1)


def _no_closure() -> None:
    """The gradients are there already."""
