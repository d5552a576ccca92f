"""R1 and R2 without double backward: finite differences of D along its own gradient."""

import math

import torch
from torch import Tensor

from gan_lightning.batch import Batch
from gan_lightning.errors import UsageError
from gan_lightning.regularizers import CriticPass, Regularizer, by_sample, input_gradient
from gan_lightning.schedules import Ramp

STEP, IMAGE_STEP = 1e-3, 0.1  # per element; of points, whose modes are narrow, and of images, whose range is [-1, 1]
RESOLVED = 8  # steps above this many units of the last place are larger than rounding errors


class FiniteDifference(Regularizer):
    """|g|^2 / 2 with g = grad_x D(x), by a first-order gradient and one more pass of D.

    With g held constant, d(|g|^2 / 2)/dtheta = d(g . grad_x D(x))/dtheta, and g . grad_x D(x) =
    (D(x + h g) - D(x)) / h + O(h). The value is exact; the derivative is that at x + h g / 2, up to O(h^2). D(x) is
    reused from the loss. A random direction v in place of g, E_v[(v . grad_x D)^2] = |g|^2 for v ~ N(0, I), would be
    unbiased but noisy: with k directions, its variance is 2 / k of the squared value, and much more for the derivative.
    Along g, no random numbers are needed.

    h moves the sample with the largest gradient by ``step`` times the square root of its number of elements, so by
    about ``step`` in each element; None is 0.1 for images and 0.001 for others. All samples have the same h, so D may
    use batch statistics. If D has ReLUs, every kink between x and x + h g adds a jump divided by h, which double
    backward ignores, so small steps are noisier than large ones; in bfloat16, rounding errors make them useless.
    """

    differentiates_twice = False
    passes_again = True
    replayable = False  # it reads the state of the random streams

    def __init__(self, weight: float | Ramp, interval: int = 1, step: float | None = None) -> None:
        super().__init__(weight, interval)
        if step is not None and step <= 0:
            raise UsageError(f"A finite difference's step is {step}: give a number above 0, such as 0.001.")
        self.step = step

    def step_for(self, x: Tensor) -> float:
        """The step for samples (N, *sample_shape)."""
        return self.step or (IMAGE_STEP if x.dim() == 4 else STEP)

    def allows_bfloat16(self, x: Tensor) -> bool:
        return self.step_for(x) >= RESOLVED * torch.finfo(torch.bfloat16).eps

    def estimate(self, critic: CriticPass, name: str, batch: Batch, logits: Tensor) -> Tensor:
        """Half the squared norm of D's gradient for each logit on a batch, which is ``name`` in ``critic.replays``."""
        gradient = input_gradient(logits, batch.x, create_graph=False)
        squares = gradient.square().sum(1)
        largest = squares.max().sqrt().clamp(min=torch.finfo(squares.dtype).tiny ** 0.5)
        h = self.step_for(batch.x) * math.sqrt(gradient.shape[1]) / largest
        with critic.replays[name].again():
            ahead = critic.judge(batch._replace(x=batch.x + h * gradient.view_as(batch.x)))
        slopes = (by_sample(ahead, batch.x) - by_sample(logits, batch.x)) / h
        return 0.5 * squares + slopes - slopes.detach()


class R1Finite(FiniteDifference):
    """R1 by finite differences: |grad_x D(x)|^2 / 2 on real data; weight is gamma."""

    def penalty(self, critic: CriticPass) -> Tensor:
        assert critic.real_logits is not None
        return self.estimate(critic, "real", critic.real, critic.real_logits)


class R2Finite(FiniteDifference):
    """R2 by finite differences: |grad_x D(x)|^2 / 2 on generated data; weight is gamma."""

    def penalty(self, critic: CriticPass) -> Tensor:
        return self.estimate(critic, "fake", critic.fake, critic.fake_logits)
