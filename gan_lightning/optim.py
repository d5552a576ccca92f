"""Optimizers that torch lacks, and schedules over the whole of a run."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.optimizer import ParamsT


class OptimisticAdam(Optimizer):
    """theta <- theta - 2 lr d_t + lr d_{t-1}, d_t = mhat_t / (sqrt(vhat_t) + eps) of Adam, d_0 = 0.

    Daskalakis et al. 2018, algorithm 1.
    """

    def __init__(
        self, params: ParamsT, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "step": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; the closure's loss, if there is one."""
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


class MomentumLR(LambdaLR):
    """LambdaLR that sets the momentum too, beta_1 where the optimizer has betas, to ``momentum`` of the step."""

    def __init__(
        self, optimizer: Optimizer, factors: list[Callable[[int], float]], momentum: Callable[[int], float]
    ) -> None:
        self.momentum = momentum
        super().__init__(optimizer, factors)

    def step(self, epoch: int | None = None) -> None:
        super().step(epoch)
        self.set_momentum()

    def set_momentum(self) -> None:
        """The momentum of the present step."""
        momentum = self.momentum(self.last_epoch)
        for group in self.optimizer.param_groups:
            if "betas" in group:
                group["betas"] = (momentum, group["betas"][1])
            else:
                group["momentum"] = momentum

    def state_dict(self) -> dict[str, Any]:
        """The state without the function, as LambdaLR's has none of its own."""
        return {name: value for name, value in super().state_dict().items() if name != "momentum"}


def linear(optimizer: Optimizer, total_steps: int, *, start: float = 0.0, final: float = 0.0) -> LambdaLR:
    """Constant up to the share ``start`` of the run, then on a line to ``final`` times the learning rate."""

    def factor(step: int) -> float:
        progress = min(step / total_steps, 1.0)
        return 1.0 + (final - 1.0) * max(progress - start, 0.0) / max(1.0 - start, 1e-12)

    return LambdaLR(optimizer, factor)


def cosine(optimizer: Optimizer, total_steps: int, *, final: float = 0.0) -> LambdaLR:
    """final + (1 - final) (1 + cos(pi t)) / 2 times the learning rate, t from 0 to 1 (Loshchilov & Hutter 2017)."""

    def factor(step: int) -> float:
        progress = min(step / total_steps, 1.0)
        return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)


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
    """lr / decay^t, at least ``min_lr``; momentum on a line, final at update ``saturate`` (Goodfellow et al. 2014).

    Both follow the updates that were made, whatever the length of the run.
    """

    def factor_of(lr: float) -> Callable[[int], float]:
        return lambda step: max(decay**-step, min_lr / lr)

    def momentum_at(step: int) -> float:
        return momentum + (final_momentum - momentum) * min(step / saturate, 1.0)

    return MomentumLR(optimizer, [factor_of(group["lr"]) for group in optimizer.param_groups], momentum_at)
