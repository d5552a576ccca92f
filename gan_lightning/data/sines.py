"""Sine waves of random amplitude, frequency and phase (Esteban et al. 2017, RCGAN, section 4.1)."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torchmetrics import Metric

from gan_lightning.data.synthetic import Synthetic
from gan_lightning.errors import UsageError
from gan_lightning.metrics.sines import SLOWEST, SineFit


class SineWaves(Distribution):
    """x_t = A sin(2 pi f t / T + phi), t = 0 ... T - 1: A ~ U(amplitudes), f ~ U(frequencies), phi ~ U(-pi, pi).

    f is in cycles per sample. Samples have shape (T, 1).
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(self, steps: int, amplitudes: tuple[float, float], frequencies: tuple[float, float]) -> None:
        super().__init__(event_shape=torch.Size([steps, 1]), validate_args=False)
        self.amplitudes, self.frequencies = amplitudes, frequencies

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        steps = self.event_shape[0]
        shape = (*sample_shape, 1, 1)
        bounds = (self.amplitudes, self.frequencies, (-math.pi, math.pi))
        amplitude, frequency, phase = (low + (high - low) * torch.rand(shape) for low, high in bounds)
        t = torch.arange(steps)[:, None] / steps
        return amplitude * torch.sin(2 * math.pi * frequency * t + phase)


class Sines(Synthetic):
    """Sine waves (steps, 1); validation measures the share of sines and the distributions of their parameters."""

    def __init__(
        self,
        batch_size: int,
        steps: int = 30,
        amplitudes: tuple[float, float] = (0.1, 0.9),
        frequencies: tuple[float, float] = (1.0, 5.0),
        **options: Any,
    ) -> None:
        waves = SineWaves(steps, *((low, high) for low, high in (amplitudes, frequencies)))
        super().__init__(waves, batch_size, **options)
        self.waves = waves
        self.monitor = ("val/energy", "min")

    def check_size(self) -> None:
        """Also check that validation can measure the parameters.

        Raises:
            UsageError: a size does not fit, or a parameter is negative, constant or faster than half the steps.
        """
        amplitudes, frequencies, most = self.waves.amplitudes, self.waves.frequencies, self.sample_shape[0] / 2
        if not 0 <= amplitudes[0] < amplitudes[1]:
            raise UsageError(f"data.amplitudes is {list(amplitudes)}: give two numbers in ascending order, at least 0.")
        if not SLOWEST <= frequencies[0] < frequencies[1] <= most:
            raise UsageError(
                f"data.frequencies is {list(frequencies)}: give two numbers in ascending order, from {SLOWEST} to "
                f"{most:g}, half of data.steps, above which sampled sines are ambiguous."
            )
        super().check_size()

    def metrics(self) -> dict[str, Metric]:
        return super().metrics() | {"sines": SineFit(self.waves.amplitudes, self.waves.frequencies)}
