"""Penalties, most of them on the critic's gradient in its input, over one input-gradient function."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gan_lightning.batch import Batch
from gan_lightning.errors import UsageError
from gan_lightning.streams import joint


@dataclass(frozen=True)
class CriticPass:
    """What a player's update has computed, and D itself, ``judge``, which maps a batch to logits.

    ``features`` maps a batch to what D's last layer makes the logits of, (N, d). In the discriminator's update both
    batches' x require gradients. In the generator's, ``real_logits`` is None where its loss does not need them.
    """

    real: Batch
    fake: Batch
    real_logits: Tensor | None
    fake_logits: Tensor
    judge: Callable[[Batch], Tensor]
    features: Callable[[Batch], Tensor] | None = None


def input_gradient(logits: Tensor, inputs: Tensor) -> Tensor:
    """d logit_i / d input_i, (logits, features), itself differentiable.

    Exact for critics that treat samples one by one; with batch statistics it is the gradient of the summed logits.
    Where a critic judges m samples by one logit, the gradient is in all m of them; where it gives a sample several
    logits, one for each patch, it is that of their mean, (samples, features).
    """
    if len(logits) > len(inputs):
        logits = logits.view(len(inputs), -1).mean(1)
    (gradient,) = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    return gradient.reshape(len(logits), -1)


class Regularizer(nn.Module):
    """weight * penalty, added to a player's loss on every interval-th of its updates.

    An interval k > 1 multiplies the penalty by k, so that its mean strength stays (lazy regularization; Karras et al.
    2020, appendix B).
    """

    def __init__(self, weight: float, interval: int = 1) -> None:
        super().__init__()
        if weight < 0:
            raise UsageError(f"A regularizer's weight is {weight}: give a number that is not negative.")
        if interval < 1:
            raise UsageError(f"A regularizer's interval is {interval}: give a whole number of updates, at least 1.")
        self.weight = weight
        self.interval = interval

    def check(self, game: nn.Module, player: str) -> None:
        """Raise a UsageError where the penalty makes no sense for that player, or its networks lack what it needs."""

    def is_due(self, update: int) -> bool:
        """Whether the player's update of this number, from 0, carries the penalty."""
        return update % self.interval == 0

    def forward(self, critic: CriticPass) -> Tensor:
        """The weighted penalty of each sample, or of the batch."""
        return self.weight * self.interval * self.penalty(critic)

    def penalty(self, critic: CriticPass) -> Tensor:
        """The penalty of each sample, (N,), or of the batch, a scalar."""
        raise TypeError(f"{type(self).__name__} must define its penalty")


class R1(Regularizer):
    """|grad_x D(x)|^2 / 2 on real data; weight is gamma (Mescheder et al. 2018, equation 9)."""

    def penalty(self, critic: CriticPass) -> Tensor:
        assert critic.real_logits is not None
        return 0.5 * input_gradient(critic.real_logits, critic.real.x).square().sum(1)


class R2(Regularizer):
    """|grad_x D(x)|^2 / 2 on generated data; weight is gamma (Mescheder et al. 2018, equation 10)."""

    def penalty(self, critic: CriticPass) -> Tensor:
        return 0.5 * input_gradient(critic.fake_logits, critic.fake.x).square().sum(1)


class GradientPenalty(Regularizer):
    """(|grad_x D(x)| - 1)^2 at x uniform between paired real and fake samples (Gulrajani et al. 2017, equation 3)."""

    def penalty(self, critic: CriticPass) -> Tensor:
        real, fake = critic.real.x.detach(), critic.fake.x.detach()
        share = joint(_uniform, len(real)).to(real).view(-1, *[1] * (real.dim() - 1))
        between = torch.lerp(fake, real, share).requires_grad_()
        gradient = input_gradient(critic.judge(critic.real._replace(x=between)), between)
        return (gradient.norm(dim=1) - 1.0).square()


def _uniform(n: int, generator: torch.Generator | None) -> Tensor:
    return torch.rand(n, generator=generator)
