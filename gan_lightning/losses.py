"""Adversarial losses: functions of logits, per sample, without reduction.

Every loss has ``discriminator(real_logits=..., fake_logits=...)`` and ``generator(real_logits=..., fake_logits=...)``;
logits and losses have shape (N,). ``Game`` takes the mean.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from gan_lightning.errors import UsageError


class Loss(nn.Module):
    """Base of the adversarial losses."""

    generator_needs_real = False  # whether the generator's loss depends on D(real)
    middle = 0.0  # the logit halfway between the targets of real and generated data, before label smoothing
    threshold = 0.0  # the logit above which the discriminator says "real": the optimal one where p_data = p_g
    real_target = 1.0  # what D(x) is trained to be on real data, if it is a probability
    is_probability = False  # whether D(x) = sigmoid(logit) is trained to be the probability that x is real
    is_shift_invariant = False  # whether only differences of logits matter, so that no single logit means "real"

    def output(self, logits: Tensor) -> Tensor:
        """D(x) for display: a probability, or the critic's value."""
        return torch.sigmoid(logits) if self.is_probability else logits

    def discriminator(self, *, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define the discriminator's loss")

    def generator(self, *, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define the generator's loss")


class _Smoothed(Loss):
    """A loss whose target for real data is 1 - label_smoothing (one-sided; Salimans et al. 2016, section 3.4).

    The optimal D is then (1 - label_smoothing) p_data / (p_data + p_g).
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise UsageError(
                f"loss.label_smoothing is {label_smoothing}: give a number from 0 up to but not including 1."
            )
        self.real_target = 1.0 - label_smoothing


class NonSaturating(_Smoothed):
    """L_D = -log D(x) - log(1 - D(G(z))), L_G = -log D(G(z)) (Goodfellow et al. 2014, section 3)."""

    is_probability = True

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__(label_smoothing)
        self.threshold = math.log(self.real_target / (2 - self.real_target))  # D(x) = real_target / 2

    def discriminator(self, *, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        # BCE(l, t) = softplus(l) - t l
        return softplus(real_logits) - self.real_target * real_logits + softplus(fake_logits)

    def generator(self, *, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        return softplus(-fake_logits)


class Minimax(NonSaturating):
    """L_D as in NonSaturating, L_G = log(1 - D(G(z))) (Goodfellow et al. 2014, equation 1); saturates when D wins."""

    def generator(self, *, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        return -softplus(fake_logits)


class LeastSquares(_Smoothed):
    """L_D = ((D(x) - 1)^2 + D(G(z))^2) / 2, L_G = (D(G(z)) - 1)^2 / 2 (Mao et al. 2017, equation 9)."""

    middle = threshold = 0.5

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__(label_smoothing)
        self.threshold = self.real_target / 2

    def discriminator(self, *, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return 0.5 * ((real_logits - self.real_target).square() + fake_logits.square())

    def generator(self, *, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        return 0.5 * (fake_logits - 1.0).square()


class Wasserstein(Loss):
    """L_D = D(G(z)) - D(x), L_G = -D(G(z)) (Arjovsky et al. 2017, equation 2); needs a gradient penalty."""

    is_shift_invariant = True

    def discriminator(self, *, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return fake_logits - real_logits

    def generator(self, *, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        return -fake_logits


class Hinge(Loss):
    """L_D = max(0, 1 - D(x)) + max(0, 1 + D(G(z))), L_G = -D(G(z)) (Lim & Ye 2017; Miyato et al. 2018, equation 16)."""

    def discriminator(self, *, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return relu(1.0 - real_logits) + relu(1.0 + fake_logits)

    def generator(self, *, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        return -fake_logits


class Relativistic(Loss):
    """L_D = -log sigmoid(l(x) - l(G(z))), L_G = -log sigmoid(l(G(z)) - l(x)), x and z paired at random.

    Relativistic pairing GAN (Jolicoeur-Martineau 2019, equations 3 and 4).
    """

    generator_needs_real = True
    is_shift_invariant = True

    def discriminator(self, *, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return softplus(fake_logits - real_logits)

    def generator(self, *, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        assert real_logits is not None
        return softplus(real_logits - fake_logits)


class Cooperative(NonSaturating):
    """L_D as in NonSaturating, L_G = -log(1 - D(G(z))): a mistake found in tutorials, by which G helps D."""

    def generator(self, *, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        return softplus(fake_logits)
