"""R1 and R2 without double backward: finite differences of D along its own gradient."""

import math

import torch
from torch import Tensor

from gan_lightning.batch import Batch
from gan_lightning.errors import UsageError
from gan_lightning.regularizers import CriticPass, Regularizer, by_sample, input_gradient
from gan_lightning.schedules import Ramp

RESOLVED = 2  # steps above this many units of the last place are larger than rounding errors


class FiniteDifference(Regularizer):
    """E|g|^2 / 2 with g = grad_x D(x), by the secant of D along g: a first-order gradient and one more pass of D.

    With g held constant, the slope s = E[D(x + h g) - D(x)] / h is E|g|^2 + O(h), and its derivative with respect to
    D's weights is d(E|g|^2 / 2)/dtheta + O(h), so the penalty s^2 / (2 E|g|^2) has the value and the derivative of
    E|g|^2 / 2 up to O(h). Unlike s itself, it is bounded below: minimizing s with a large h would sharpen D at x and
    push D(x + h g) below D(x) without end. D(x) is reused from the loss. A random direction v in place of g,
    E_v[(v . grad_x D)^2] = |g|^2 for v ~ N(0, I), would be unbiased but noisy: with k directions, its variance is 2 / k
    of the squared value, and much more for the derivative. Along g, no random numbers are needed.

    h moves the sample with the largest gradient by ``step`` times the square root of its number of elements, so by
    about ``step`` in each element. All samples have the same h, so D may use batch statistics. If D has ReLUs, every
    kink between x and x + h g adds a jump divided by h, which double backward ignores, so small steps are noisy. With
    large ones, D can become sharper at x than the secant shows, so the penalty bounds D's slope over a step rather than
    its gradient. In bfloat16, values of order 1 are rounded by as much as a step of 0.016, so smaller ones are taken in
    float32.
    """

    differentiates_twice = False
    passes_again = True
    replayable = False  # it reads the state of the random streams

    def __init__(self, weight: float | Ramp, interval: int = 1, step: float = 1e-3) -> None:
        super().__init__(weight, interval)
        if step <= 0:
            raise UsageError(f"A finite difference's step is {step}: give a number above 0, such as 0.001.")
        self.step = step
        self.allows_bfloat16 = step > RESOLVED * torch.finfo(torch.bfloat16).eps

    def estimate(self, critic: CriticPass, name: str, batch: Batch, logits: Tensor) -> Tensor:
        """Half the mean squared norm of D's gradient on a batch, which is ``name`` in ``critic.replays``."""
        gradient = input_gradient(logits, batch.x, critic.packing, create_graph=False)
        squares, least = gradient.square().sum(1), torch.finfo(gradient.dtype).tiny
        h = self.step * math.sqrt(gradient.shape[1]) / squares.max().clamp(min=least).sqrt()
        with critic.replays[name].again():
            ahead = critic.judge(batch._replace(x=batch.x + h * gradient.view_as(batch.x)))
        change = by_sample(ahead, batch.x, critic.packing) - by_sample(logits, batch.x, critic.packing)
        slope = change.mean() / h
        return 0.5 * slope.square() / squares.mean().clamp(min=least)


class R1Finite(FiniteDifference):
    """R1 by finite differences: |grad_x D(x)|^2 / 2 on real data; weight is gamma."""

    sees_generator = False

    def penalty(self, critic: CriticPass) -> Tensor:
        assert critic.real_logits is not None
        return self.estimate(critic, "real", critic.real, critic.real_logits)


class R2Finite(FiniteDifference):
    """R2 by finite differences: |grad_x D(x)|^2 / 2 on generated data; weight is gamma."""

    def penalty(self, critic: CriticPass) -> Tensor:
        return self.estimate(critic, "fake", critic.fake, critic.fake_logits)
