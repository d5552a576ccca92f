"""Penalties, most of them on the critic's gradient with respect to its input."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from gan_lightning.batch import Batch
from gan_lightning.checks import NOT_NEGATIVE, SIZE, check_values
from gan_lightning.errors import UsageError
from gan_lightning.replay import Replay
from gan_lightning.schedules import Ramp
from gan_lightning.streams import joint


@dataclass(frozen=True)
class CriticPass:
    """The batches and logits of a player's update, and D itself as ``judge``, which maps a batch to logits.

    ``features`` maps a batch to D's features (N, d), the inputs of its last layer. In the discriminator's update, x of
    both batches requires gradients. In the generator's, ``real_logits`` is None if its loss does not need them.
    ``replays``, by ``real`` and ``fake``, let ``judge`` repeat the two passes on other x, for penalties with
    ``passes_again``. ``at`` names the batches at which the update's penalties need D's gradient, so that it
    is computed once. Each logit judges ``packing`` samples.
    """

    real: Batch
    fake: Batch
    real_logits: Tensor | None
    fake_logits: Tensor
    judge: Callable[[Batch], Tensor]
    features: Callable[[Batch], Tensor] | None = None
    replays: Mapping[str, Replay] = field(default_factory=dict)
    at: Collection[str] = ("real", "fake")
    packing: int = 1

    def gradient(self, name: str) -> Tensor:
        """D's gradient on the batch ``real`` or ``fake``, (logits, features), as in ``input_gradient``."""
        if name in self.at:
            return self._gradients[name]
        logits, x = self._seen[name]
        assert logits is not None
        return input_gradient(logits, x, self.packing)

    @property
    def _seen(self) -> dict[str, tuple[Tensor | None, Tensor]]:
        return {"real": (self.real_logits, self.real.x), "fake": (self.fake_logits, self.fake.x)}

    @cached_property
    def _gradients(self) -> dict[str, Tensor]:
        """Computed in one backward pass, since both logits may come from one forward pass."""
        wanted = {
            name: (logits, x)
            for name, (logits, x) in self._seen.items()
            if name in self.at and logits is not None and x.requires_grad  # in G's update, real x does not
        }
        return dict(zip(wanted, input_gradients(wanted.values(), self.packing), strict=True))


def by_sample(logits: Tensor, inputs: Tensor, packing: int = 1) -> Tensor:
    """One logit per input, or per pack of inputs: the logits themselves, or their mean if D returns one per patch."""
    n = inputs.shape[0] // packing  # len() of a tensor is slower
    return logits.reshape(n, -1).mean(1) if logits.numel() > n else logits


def input_gradients(
    passes: Iterable[tuple[Tensor, Tensor]], packing: int = 1, create_graph: bool = True
) -> list[Tensor]:
    """``input_gradient`` for several pairs of logits and inputs."""
    logits, inputs = zip(*((by_sample(logits, inputs, packing), inputs) for logits, inputs in passes), strict=True)
    total = sum(part.sum() for part in logits)
    gradients = torch.autograd.grad(total, inputs, retain_graph=True, create_graph=create_graph)
    return [gradient.reshape(part.shape[0], -1) for gradient, part in zip(gradients, logits, strict=True)]


def input_gradient(logits: Tensor, inputs: Tensor, packing: int = 1, create_graph: bool = True) -> Tensor:
    """d logit_i / d input_i, (logits, features), itself differentiable with ``create_graph``.

    Exact for critics that treat samples independently; with batch statistics it is the gradient of the summed logits.
    If one logit judges ``packing`` samples, the gradient is with respect to all of them. If a sample or a pack has
    several logits, one per patch, it is the gradient of their mean.
    """
    return input_gradients([(logits, inputs)], packing, create_graph)[0]


class Regularizer(nn.Module):
    """weight * penalty, added to a player's loss in every ``interval``-th update.

    An interval k > 1 multiplies the penalty by k, so that its mean strength is unchanged (lazy regularization; Karras
    et al. 2020, appendix B). The weight may be a ``Ramp`` over the run.
    """

    differentiates_twice = True  # whether it backpropagates through D's gradient, unsupported by compiled networks
    passes_again = False  # whether it repeats D's passes on other x
    replayable = True  # whether a CUDA graph can repeat it: no synchronization, and no state in Python
    at: str | None = None  # the batch, real or fake, at which it needs D's gradient, if only one
    sees_generator = True  # whether it depends on G's weights, so that G can have it
    allows_bfloat16 = False  # whether the passes of its updates may stay in bfloat16, if the run uses it

    def __init__(self, weight: float | Ramp, interval: int = 1) -> None:
        super().__init__()
        self.weight = weight
        self.interval = interval
        check_values(self, interval=SIZE)
        if not isinstance(weight, Ramp):
            check_values(self, weight=NOT_NEGATIVE)

    def check(self, game: nn.Module, player: str) -> None:
        """Check that the penalty depends on this player's weights, and that the networks support it.

        Raises:
            UsageError: it does not, or they do not.
        """
        if player == "generator" and not self.sees_generator:
            raise UsageError(
                f"{type(self).__name__} penalizes the discriminator's gradient at points that the generator's weights "
                "do not move: choose it by regularizer=, not by regularizer@generator_regularizer=."
            )

    def check_batch(self, n: int, packing: int) -> None:
        """Check that the penalty is defined for a micro-batch of n samples, of which D judges ``packing`` together.

        Raises:
            UsageError: there are too few.
        """

    def is_due(self, update: int) -> bool:
        """Whether the penalty applies to the player's update number ``update``, from 0; a function of it alone.

        Never for a subclass that defines ``after_step`` alone.
        """
        kind = type(self)
        is_own = kind.penalty is not Regularizer.penalty or kind.forward is not Regularizer.forward
        return (is_own or kind.after_step is Regularizer.after_step) and update % self.interval == 0

    def forward(self, critic: CriticPass) -> Tensor:
        """The weighted penalty, per sample or for the batch."""
        return float(self.weight) * self.interval * self.penalty(critic)

    def penalty(self, critic: CriticPass) -> Tensor:
        """The penalty per sample, (N,), or for the batch, a scalar."""
        raise TypeError(f"{type(self).__name__} must define its penalty")

    def after_step(self, weights: Sequence[Tensor]) -> None:
        """Modify the player's weights after each of its steps; by default, do nothing."""


class R1(Regularizer):
    """|grad_x D(x)|^2 / 2 on real data; weight is gamma (Mescheder et al. 2018, equation 9)."""

    at = "real"
    sees_generator = False

    def penalty(self, critic: CriticPass) -> Tensor:
        return 0.5 * critic.gradient("real").square().sum(1)


class R2(Regularizer):
    """|grad_x D(x)|^2 / 2 on generated data; weight is gamma (Mescheder et al. 2018, equation 10)."""

    at = "fake"

    def penalty(self, critic: CriticPass) -> Tensor:
        return 0.5 * critic.gradient("fake").square().sum(1)


class GradientPenalty(Regularizer):
    """(|grad_x D(x)| - 1)^2 at x uniform between pairs of real and fake samples (Gulrajani et al. 2017, equation 3)."""

    sees_generator = False

    def penalty(self, critic: CriticPass) -> Tensor:
        return (_gradient_at(_between(critic), critic).norm(dim=1) - 1.0).square()


class ZeroCentered(Regularizer):
    """|grad_x D(x)|^2 at x uniform between pairs of real and fake samples (Thanh-Tung et al. 2019, 0-GP)."""

    sees_generator = False

    def penalty(self, critic: CriticPass) -> Tensor:
        return _gradient_at(_between(critic), critic).square().sum(1)


class DRAGAN(Regularizer):
    """(|grad_x D(x + delta)| - 1)^2 around real data (Kodali et al. 2017).

    As in the authors' code, delta = a s u / 2, with a ~ U(0, 1) per sample or pack, u ~ U(0, 1) per element, and s the
    standard deviation of all elements of the batch, on each device separately.
    """

    sees_generator = False

    def penalty(self, critic: CriticPass) -> Tensor:
        real = critic.real.x.detach()
        size = real[0].numel()
        uniform = joint(lambda n, generator: torch.rand(n, 1 + size, generator=generator), len(real), real.device)
        a, u = uniform.to(real).split([1, size], 1)
        a = a[:: critic.packing].repeat_interleave(critic.packing, 0)
        near = real + 0.5 * real.std(correction=0) * (a * u).view_as(real)
        return (_gradient_at(near, critic).norm(dim=1) - 1.0).square()


class WeightClipping(Regularizer):
    """w <- min(max(w, -limit), limit) after each step, for all of the player's weights; no penalty.

    (Arjovsky et al. 2017, WGAN, algorithm 1.)
    """

    def __init__(self, limit: float = 0.01) -> None:
        super().__init__(weight=0.0)
        if limit <= 0:
            raise UsageError(f"WeightClipping's limit is {limit}: give a number above 0.")
        self.limit = limit

    @torch.no_grad()
    def after_step(self, weights: Sequence[Tensor]) -> None:
        torch._foreach_clamp_min_(list(weights), -self.limit)
        torch._foreach_clamp_max_(list(weights), self.limit)


def _between(critic: CriticPass) -> Tensor:
    """Interpolate pairs of real and fake samples, or packs, with a uniform random weight per pair."""
    real, fake = critic.real.x.detach(), critic.fake.x.detach()
    share = joint(_uniform, len(real) // critic.packing, real.device).repeat_interleave(critic.packing)
    return torch.lerp(fake, real, share.to(real).view(-1, *[1] * (real.dim() - 1)))


def _gradient_at(x: Tensor, critic: CriticPass) -> Tensor:
    """D's gradient at x under the real batch's conditions, (logits, features)."""
    x = x.requires_grad_()
    return input_gradient(critic.judge(critic.real._replace(x=x)), x, critic.packing)


def _uniform(n: int, generator: torch.Generator | None) -> Tensor:
    return torch.rand(n, generator=generator)
