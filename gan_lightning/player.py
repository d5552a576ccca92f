"""One player's update, and everything that depends on what Lightning does around a step.

This module uses a private part of Lightning 2.6: the counters of ``trainer.fit_loop.epoch_loop``.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.plugins.precision import DoublePrecision, MixedPrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.optim import Optimizer

from gan_lightning.batch import Batch
from gan_lightning.game import Terms

Compute = Callable[[Sequence[Batch]], list[dict[str, Tensor]]]  # sets .grad, and returns the terms of the loss


@contextmanager
def frozen(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Disable gradients of the weights inside the context; ``requires_grad`` is restored even after an error."""
    weights = [weight for weight in weights if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


class Player:
    """One player during training: its weights, its optimizer and the weights of its rivals."""

    def __init__(
        self,
        name: str,
        weights: Sequence[nn.Parameter],
        optimizer: Optimizer,
        module: LightningModule,
        clip_val: float | None = None,
        clip_algorithm: Literal["norm", "value"] = "norm",
    ) -> None:
        self.name = name
        self.optimizer = optimizer
        self.module = module
        self.clip_val, self.clip_algorithm = clip_val, clip_algorithm
        self.weights = weights  # also frozen ones, which may be unfrozen during training
        self.rivals: Sequence[nn.Parameter] = ()  # frozen while this player learns
        self.measures = False
        self.gradient_norm = torch.zeros(())  # in the last update that measured it
        self.is_bare = lightning_adds_nothing(module, module.trainer)
        self.is_mixed = isinstance(module.trainer.precision_plugin, MixedPrecision)
        # if a checkpoint's state has another memory layout, a fused step would silently mix up its elements
        for weight, state in optimizer.state.items():
            for key, value in state.items():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    state[key] = torch.empty_like(weight, dtype=value.dtype).copy_(value)

    def gradients(self, micro_batches: Iterable[Terms], n: int) -> list[dict[str, Tensor]]:
        """Compute the gradients of the mean loss of n micro-batches, whose terms are computed one by one.

        Returns the detached terms of each micro-batch.
        """
        for weight in self.weights:  # faster for tiny networks than optimizer.zero_grad, because of its profiler mark
            weight.grad = None
        terms = []
        with frozen(self.rivals) if self.rivals else nullcontext():
            for losses, _ in micro_batches:
                loss = sum(losses.values()) if len(losses) > 1 else next(iter(losses.values()))
                self._backward(loss / n if n > 1 else loss)  # type: ignore[arg-type]
                terms.append({name: value.detach() for name, value in losses.items()})
        return terms

    def _backward(self, loss: Tensor) -> None:
        # the second differentiation of a penalty must not fall back to half precision
        with torch.autocast(loss.device.type, enabled=False) if self.is_mixed else nullcontext():
            if self.is_bare:
                loss.backward()
            else:
                self.module.manual_backward(loss)

    def step(self) -> None:
        """Take one step on the gradients."""
        if self.is_bare:
            self.module.on_before_optimizer_step(self.optimizer)
            self.optimizer.step()
        else:
            trainer: Any = self.module.trainer
            with trainer.profiler.profile("optimizer_step"):
                trainer.strategy.optimizer_step(self.optimizer, _no_closure, self.module)

    def before_step(self) -> None:
        """Measure and clip the gradients; unscale them under fp16, since Lightning leaves this to a fused optimizer."""
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


class Move(NamedTuple):
    """A player's update number ``update``; ``compute`` sets the gradients and returns the terms of the loss."""

    player: Player
    update: int
    compute: Compute


def lightning_adds_nothing(module: LightningModule, trainer: Any) -> bool:
    """Whether to skip Lightning's wrappers of backward passes and steps, which take half the time of a tiny GAN.

    True on one device, without a gradient scaler or profiler, if no hooks depend on the wrappers.
    """
    hooks = ("on_before_backward", "on_after_backward", "on_before_optimizer_step")
    own = ("backward", "on_before_backward", "on_after_backward")  # the player calls on_before_optimizer_step
    return (
        type(trainer.strategy) is SingleDeviceStrategy
        and type(trainer.precision_plugin) in (Precision, MixedPrecision, DoublePrecision)
        and getattr(trainer.precision_plugin, "scaler", None) is None
        and type(trainer.profiler) is PassThroughProfiler
        and not any(is_overridden(hook, callback) for hook in hooks for callback in trainer.callbacks)
        and not any(is_overridden(method, module) for method in own)
    )


def count_step(trainer: Trainer) -> None:
    """Increment the global step, since LightningOptimizer.step would also count D's steps (Lightning #17958)."""
    progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
    progress.increment_ready()
    progress.increment_completed()


def log_by_steps(trainer: Trainer) -> None:
    """Make Lightning's own logging count global steps instead of batches."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step


def mend_epochs(checkpoint: dict[str, Any], trainer: Trainer) -> None:
    """Keep Lightning from counting an epoch twice that ended with a checkpoint.

    With ``max_steps``, a resumed run repeats the end of this epoch, although ``processed`` was incremented already, so
    a later extension by ``max_epochs`` would end too early.
    """
    if trainer.max_steps != -1 and "loops" in checkpoint:
        progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
        for counts in (progress["total"], progress["current"]):
            counts["processed"] = min(counts["processed"], counts["started"] - 1)


def _no_closure() -> None:
    """Do nothing: the gradients are computed already."""
