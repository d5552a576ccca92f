"""Scheduled values as functions of the step alone, without state to save."""

import math

from torch import nn

from gan_lightning.errors import UsageError


class Ramp(nn.Module):
    """final + (initial - final) (1 + cos(pi t)) / 2, with t from 0 to 1 in ``steps`` generator updates, then 1.

    The burn-in of R3GAN (Huang et al. 2024). It can replace a number, such as a penalty's weight: ``float(ramp)`` is
    the value at the current update, which is set in every round.
    """

    def __init__(self, initial: float, final: float, steps: int) -> None:
        super().__init__()
        for name, value in (("initial", initial), ("final", final)):
            if value < 0:
                raise UsageError(f"A ramp's {name} value is {value}: give a number of at least 0.")
        if steps is None or steps < 1:
            raise UsageError(f"A ramp takes {steps} steps: give a whole number of generator updates, at least 1.")
        self.initial, self.final, self.steps = initial, final, steps
        self.step = 0  # the current generator update

    def at(self, step: int) -> float:
        """The value at generator update ``step``, from 0."""
        t = min(step / self.steps, 1.0)
        return self.final + (self.initial - self.final) * 0.5 * (1.0 + math.cos(math.pi * t))

    def __float__(self) -> float:
        return self.at(self.step)


class HalfLife(nn.Module):
    """The EMA decay 0.5^(n / images) for an update with n images (Karras et al. 2018).

    A weight's contribution halves every ``images`` images, for any batch size; 0 disables averaging.
    """

    def __init__(self, images: float | Ramp) -> None:
        super().__init__()
        if float(images) < 0:
            raise UsageError(f"A half-life is {images} images: give a number of at least 0.")
        self.images = images

    def forward(self, n: int) -> float:
        images = float(self.images)
        return 0.5 ** (n / images) if images else 0.0
