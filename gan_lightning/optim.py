"""Optimizers that PyTorch does not provide, and learning-rate schedules over a run."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.optimizer import ParamsT

from gan_lightning.errors import UsageError
from gan_lightning.schedules import Ramp

Group = dict[str, Any]  # options of a parameter group


class OptimisticAdam(Optimizer):
    """theta <- theta - 2 lr d_t + lr d_{t-1}, with Adam's d_t = mhat_t / (sqrt(vhat_t) + eps) and d_0 = 0.

    (Daskalakis et al. 2018, algorithm 1.)
    """

    def __init__(
        self, params: ParamsT, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "step": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; return the closure's loss, if any."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._update(group)
        return loss

    def _update(self, group: dict[str, Any]) -> None:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not parameters:
            return
        gradients = [parameter.grad for parameter in parameters]
        states = [self._state(parameter) for parameter in parameters]
        means, squares, previous = ([s[name] for s in states] for name in ("mean", "square", "direction"))
        lr, (beta1, beta2) = group["lr"], group["betas"]
        group["step"] += 1
        scale1, scale2 = 1.0 - beta1 ** group["step"], 1.0 - beta2 ** group["step"]

        torch._foreach_lerp_(means, gradients, 1.0 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1.0 - beta2)
        # mhat / (sqrt(vhat) + eps), with the division of m by its scale moved into the denominator
        denominators = torch._foreach_sqrt(squares)
        torch._foreach_mul_(denominators, scale1 / math.sqrt(scale2))
        torch._foreach_add_(denominators, scale1 * group["eps"])
        torch._foreach_add_(parameters, previous, alpha=lr)
        torch._foreach_copy_(previous, means)
        torch._foreach_div_(previous, denominators)
        torch._foreach_add_(parameters, previous, alpha=-2.0 * lr)

    def _state(self, parameter: Tensor) -> dict[str, Tensor]:
        state = self.state[parameter]
        if not state:
            state.update({name: torch.zeros_like(parameter) for name in ("mean", "square", "direction")})
        return state


class OptionsLR(LambdaLR):
    """LambdaLR that also sets other options of each parameter group, such as betas, by the functions ``options``."""

    def __init__(
        self, optimizer: Optimizer, factors: list[Callable[[int], float]], options: list[Callable[[int, Group], Group]]
    ) -> None:
        self.options = options
        super().__init__(optimizer, factors)

    def step(self, epoch: int | None = None) -> None:
        super().step(epoch)
        self.set_options()

    def set_options(self) -> None:
        """Set the options of the current step."""
        for options, group in zip(self.options, self.optimizer.param_groups, strict=True):
            group.update(options(self.last_epoch, group))

    def state_dict(self) -> dict[str, Any]:
        """The state without the functions, which LambdaLR does not save either."""
        return {name: value for name, value in super().state_dict().items() if name != "options"}


def settings(optimizer: Optimizer) -> dict[str, float]:
    """The learning rate, and momentum, beta1 and beta2 if a schedule has changed them."""
    group, made = optimizer.param_groups[0], optimizer.defaults
    momentum = {"momentum": group["momentum"]} if group.get("momentum") != made.get("momentum") else {}
    betas = zip(("beta1", "beta2"), group.get("betas", ()), made.get("betas", ()), strict=False)
    rate = {"learning_rate": float(group["lr"])} if "lr" in group else {}  # an own optimizer may have none
    return rate | momentum | {name: now for name, now, first in betas if now != first}


def linear(optimizer: Optimizer, total_steps: int, *, start: float = 0.0, final: float = 0.0) -> LambdaLR:
    """Constant for the fraction ``start`` of the run, then linear to ``final`` times the learning rate."""

    def factor(step: int) -> float:
        progress = min(step / max(total_steps, 1), 1.0)
        return 1.0 + (final - 1.0) * max(progress - start, 0.0) / max(1.0 - start, 1e-12)

    return LambdaLR(optimizer, factor)


def cosine(
    optimizer: Optimizer, total_steps: int, *, final: float = 0.0, steps: int | None = None, beta2: float | None = None
) -> LambdaLR:
    """final + (1 - final) (1 + cos(pi t)) / 2 times the learning rate, t from 0 to 1 (Loshchilov & Hutter 2017).

    t reaches 1 at update ``steps``, by default at the end of the run. With ``beta2``, the optimizer's second beta is
    annealed to this value in the same way (Huang et al. 2024, R3GAN).

    Raises:
        UsageError: the optimizer has no betas.
    """
    length = max(total_steps, 1) if steps is None else steps
    rate = Ramp(1.0, final, length)
    if beta2 is None:
        return LambdaLR(optimizer, lambda step: rate.at(step))

    def betas_from(beta: float) -> Callable[[int, Group], Group]:
        ramp = Ramp(beta, beta2, length)
        return lambda step, group: {"betas": (group["betas"][0], ramp.at(step))}

    groups = optimizer.param_groups
    if any("betas" not in group for group in groups):
        raise UsageError(f"schedule.beta2 is {beta2}, but {type(optimizer).__name__} has no betas: leave it out.")
    options = [betas_from(group["betas"][1]) for group in groups]
    return OptionsLR(optimizer, [lambda step: rate.at(step) for _ in groups], options)


def goodfellow(
    optimizer: Optimizer,
    total_steps: int,
    *,
    decay: float = 1.000004,
    min_lr: float = 1e-6,
    momentum: float = 0.5,
    final_momentum: float = 0.7,
    saturate: int = 125_000,
) -> LambdaLR:
    """lr / decay^t, at least ``min_lr``; momentum linear, final at update ``saturate`` (Goodfellow et al. 2014).

    Both depend on the number of updates so far, not on the length of the run.

    Raises:
        UsageError: a learning rate is below ``min_lr``.
    """
    if (lowest := min(group["lr"] for group in optimizer.param_groups)) < min_lr:
        raise UsageError(f"schedule.min_lr is {min_lr:g}, above the learning rate {lowest:g}: lower it.")

    def factor_of(lr: float) -> Callable[[int], float]:
        return lambda step: max(decay**-step, min_lr / lr)

    def momentum_at(step: int, group: Group) -> Group:
        value = momentum + (final_momentum - momentum) * min(step / saturate, 1.0)
        return {"betas": (value, group["betas"][1])} if "betas" in group else {"momentum": value}

    factors = [factor_of(group["lr"]) for group in optimizer.param_groups]
    return OptionsLR(optimizer, factors, [momentum_at] * len(factors))
