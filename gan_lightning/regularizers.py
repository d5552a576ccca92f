"""Penalties, most of them on the critic's gradient in its input, over one input-gradient function."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from gan_lightning.batch import Batch
from gan_lightning.errors import UsageError
from gan_lightning.replay import Replay
from gan_lightning.schedules import Ramp
from gan_lightning.streams import joint


@dataclass(frozen=True)
class CriticPass:
    """What a player's update has computed, and D itself, ``judge``, which maps a batch to logits.

    ``features`` maps a batch to what D's last layer makes the logits of, (N, d). In the discriminator's update both
    batches' x require gradients. In the generator's, ``real_logits`` is None where its loss does not need them.
    ``replays``, by ``real`` and ``fake``, let ``judge`` repeat the passes of both logits on other x, for penalties
    that say ``passes_again``. ``at`` names the batches at which the update's penalties want D's gradient.
    """

    real: Batch
    fake: Batch
    real_logits: Tensor | None
    fake_logits: Tensor
    judge: Callable[[Batch], Tensor]
    features: Callable[[Batch], Tensor] | None = None
    replays: Mapping[str, Replay] = field(default_factory=dict)
    at: Collection[str] = ("real", "fake")

    def gradient(self, name: str) -> Tensor:
        """D's gradient on the batch ``real`` or ``fake``, (logits, features), as ``input_gradient`` has it."""
        return self._gradients[name]

    @cached_property
    def _gradients(self) -> dict[str, Tensor]:
        """By one backward pass, since both logits may come of one pass."""
        seen = {"real": (self.real_logits, self.real.x), "fake": (self.fake_logits, self.fake.x)}
        wanted = {name: seen[name] for name in seen if name in self.at and seen[name][0] is not None}
        return dict(zip(wanted, input_gradients(wanted.values()), strict=True))  # type: ignore[arg-type]


def by_sample(logits: Tensor, inputs: Tensor) -> Tensor:
    """Logits as they are, or where there are several of each input, one for each patch, their means."""
    n = inputs.shape[0]  # len() of a tensor costs a toy more
    return logits.view(n, -1).mean(1) if logits.shape[0] > n else logits


def input_gradients(passes: Iterable[tuple[Tensor, Tensor]], create_graph: bool = True) -> list[Tensor]:
    """``input_gradient`` of several logits, each in its inputs."""
    logits, inputs = zip(*((by_sample(logits, inputs), inputs) for logits, inputs in passes), strict=True)
    total = sum(part.sum() for part in logits)
    gradients = torch.autograd.grad(total, inputs, retain_graph=True, create_graph=create_graph)
    return [gradient.reshape(part.shape[0], -1) for gradient, part in zip(gradients, logits, strict=True)]


def input_gradient(logits: Tensor, inputs: Tensor, create_graph: bool = True) -> Tensor:
    """d logit_i / d input_i, (logits, features), itself differentiable with ``create_graph``.

    Exact for critics that treat samples one by one; with batch statistics it is the gradient of the summed logits.
    Where a critic judges m samples by one logit, the gradient is in all m of them; where it gives a sample several
    logits, one for each patch, it is that of their mean, (samples, features).
    """
    return input_gradients([(logits, inputs)], create_graph)[0]


class Regularizer(nn.Module):
    """weight * penalty, added to a player's loss on every interval-th of its updates.

    An interval k > 1 multiplies the penalty by k, so that its mean strength stays (lazy regularization; Karras et al.
    2020, appendix B). The weight may be a ramp over the run.
    """

    differentiates_twice = True  # whether backward passes through D's gradient, which no compiled network survives
    passes_again = False  # whether it repeats D's passes on other x
    at: str | None = None  # the batch, real or fake, at which it takes D's gradient, if it does at one

    def __init__(self, weight: float | Ramp, interval: int = 1) -> None:
        super().__init__()
        if float(weight) < 0:
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
        return float(self.weight) * self.interval * self.penalty(critic)

    def penalty(self, critic: CriticPass) -> Tensor:
        """The penalty of each sample, (N,), or of the batch, a scalar."""
        raise TypeError(f"{type(self).__name__} must define its penalty")

    def after_step(self, weights: Sequence[Tensor]) -> None:
        """What is done to the player's weights after each of its steps: nothing, unless overridden."""


class R1(Regularizer):
    """|grad_x D(x)|^2 / 2 on real data; weight is gamma (Mescheder et al. 2018, equation 9)."""

    at = "real"

    def penalty(self, critic: CriticPass) -> Tensor:
        return 0.5 * critic.gradient("real").square().sum(1)


class R2(Regularizer):
    """|grad_x D(x)|^2 / 2 on generated data; weight is gamma (Mescheder et al. 2018, equation 10)."""

    at = "fake"

    def penalty(self, critic: CriticPass) -> Tensor:
        return 0.5 * critic.gradient("fake").square().sum(1)


class GradientPenalty(Regularizer):
    """(|grad_x D(x)| - 1)^2 at x uniform between paired real and fake samples (Gulrajani et al. 2017, equation 3)."""

    def penalty(self, critic: CriticPass) -> Tensor:
        return (_gradient_at(_between(critic), critic).norm(dim=1) - 1.0).square()


class ZeroCentred(Regularizer):
    """|grad_x D(x)|^2 at x uniform between paired real and fake samples (Thanh-Tung et al. 2019, 0-GP)."""

    def penalty(self, critic: CriticPass) -> Tensor:
        return _gradient_at(_between(critic), critic).square().sum(1)


class DRAGAN(Regularizer):
    """(|grad_x D(x + delta)| - 1)^2 around real data (Kodali et al. 2017).

    As in the authors' code, delta = a s u / 2: a ~ U(0, 1) of the sample, u ~ U(0, 1) of the number, and s the standard
    deviation of all the numbers of the batch, on several devices of each one's own.
    """

    def penalty(self, critic: CriticPass) -> Tensor:
        real = critic.real.x.detach()
        uniform = joint(lambda n, generator: torch.rand(n, 1 + real[0].numel(), generator=generator), len(real))
        a, u = uniform.to(real).split([1, real[0].numel()], 1)
        near = real + 0.5 * real.std(correction=0) * (a * u).view_as(real)
        return (_gradient_at(near, critic).norm(dim=1) - 1.0).square()


class WeightClipping(Regularizer):
    """w <- min(max(w, -limit), limit) after each step, of all the player's weights; no penalty.

    (Arjovsky et al. 2017, WGAN, algorithm 1.)
    """

    def __init__(self, limit: float = 0.01) -> None:
        super().__init__(weight=0.0)
        if limit <= 0:
            raise UsageError(f"WeightClipping's limit is {limit}: give a number above 0.")
        self.limit = limit

    def is_due(self, update: int) -> bool:
        return False

    @torch.no_grad()
    def after_step(self, weights: Sequence[Tensor]) -> None:
        torch._foreach_clamp_min_(list(weights), -self.limit)
        torch._foreach_clamp_max_(list(weights), self.limit)


def _between(critic: CriticPass) -> Tensor:
    """Points between paired real and fake samples, at a share of the way that is uniform for each pair."""
    real, fake = critic.real.x.detach(), critic.fake.x.detach()
    share = joint(_uniform, len(real)).to(real).view(-1, *[1] * (real.dim() - 1))
    return torch.lerp(fake, real, share)


def _gradient_at(x: Tensor, critic: CriticPass) -> Tensor:
    """D's gradient at x under the real batch's conditions, (logits, features)."""
    x = x.requires_grad_()
    return input_gradient(critic.judge(critic.real._replace(x=x)), x)


def _uniform(n: int, generator: torch.Generator | None) -> Tensor:
    return torch.rand(n, generator=generator)
