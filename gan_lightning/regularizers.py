"""Penalties on the critic's gradient in its input, over one input-gradient function."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class CriticPass:
    """What the discriminator's update has computed: batches (N, *sample_shape) that require gradients, logits (N,)."""

    real: Tensor
    fake: Tensor
    real_logits: Tensor
    fake_logits: Tensor
    discriminator: nn.Module


def input_gradient(logits: Tensor, inputs: Tensor) -> Tensor:
    """d logit_i / d input_i of every sample, (N, features), itself differentiable.

    Exact for critics that treat samples one by one; with batch statistics it is the gradient of the summed logits.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    return gradient.flatten(1)


class Regularizer:
    """weight * penalty, added to the discriminator's loss on every interval-th of its updates.

    An interval k > 1 multiplies the penalty by k, so that its mean strength stays (lazy regularization; Karras et al.
    2020, appendix B).
    """

    def __init__(self, weight: float, interval: int = 1) -> None:
        if weight < 0:
            raise ValueError(f"A regularizer's weight is {weight}: give a number that is not negative.")
        if interval < 1:
            raise ValueError(f"A regularizer's interval is {interval}: give a whole number of updates, at least 1.")
        self.weight = weight
        self.interval = interval

    def is_due(self, update: int) -> bool:
        """Whether the discriminator's update of this number, from 0, carries the penalty."""
        return update % self.interval == 0

    def __call__(self, critic: CriticPass) -> Tensor:
        """The weighted penalty of each sample, (N,)."""
        return self.weight * self.interval * self.penalty(critic)

    def penalty(self, critic: CriticPass) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define its penalty")


class R1(Regularizer):
    """|grad_x D(x)|^2 / 2 on real data; weight is gamma (Mescheder et al. 2018, equation 9)."""

    def penalty(self, critic: CriticPass) -> Tensor:
        return 0.5 * input_gradient(critic.real_logits, critic.real).square().sum(1)


class R2(Regularizer):
    """|grad_x D(x)|^2 / 2 on generated data; weight is gamma (Mescheder et al. 2018, equation 10)."""

    def penalty(self, critic: CriticPass) -> Tensor:
        return 0.5 * input_gradient(critic.fake_logits, critic.fake).square().sum(1)


class GradientPenalty(Regularizer):
    """(|grad_x D(x)| - 1)^2 at x uniform between paired real and fake samples (Gulrajani et al. 2017, equation 3)."""

    def penalty(self, critic: CriticPass) -> Tensor:
        share = torch.rand(len(critic.real), *[1] * (critic.real.dim() - 1), device=critic.real.device)
        between = torch.lerp(critic.fake.detach(), critic.real.detach(), share.to(critic.real.dtype)).requires_grad_()
        gradient = input_gradient(critic.discriminator(between), between)
        return (gradient.norm(dim=1) - 1.0).square()
