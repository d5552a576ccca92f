"""The share of samples that are sine waves, and the distributions of their amplitudes and frequencies."""

import math
from functools import lru_cache

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from gan_lightning.batch import Batch

FIT = 0.98  # R^2 from which a sample counts as a sine
SLOWEST = 0.1  # candidate frequency
STEP, FINE = 0.005, 500  # between candidate frequencies at most, and the number within the interval at least
BLOCK = 1000  # samples fitted at once


def fit_sines(x: Tensor, frequencies: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor]:
    """Fit a sine to each x of (N, T) by least squares; return R^2, amplitude and frequency, (N,) each.

    Candidate frequencies cover the interval, extended by half a cycle on both sides within [0.1, T/2], in steps of
    0.005 cycles, and within a narrow interval in 500 steps. R^2 = 1 - RSS/TSS, with TSS about the mean.
    """
    tried, basis, inverse = _bases(x.shape[1], *frequencies)
    parts = []
    for block in x.double().split(BLOCK):
        coefficients = torch.einsum("fkt,nt->nfk", inverse, block)
        explained = (coefficients * torch.einsum("ftk,nt->nfk", basis, block)).sum(2)
        energy, best = explained.max(1)
        chosen = coefficients[torch.arange(len(block)), best]
        total = (block - block.mean(1, keepdim=True)).square().sum(1)
        residual = block.square().sum(1) - energy
        parts.append(torch.stack([1 - residual / total.clamp_min(1e-12), chosen.norm(dim=1), tried[best]]))
    fit, amplitude, frequency = torch.cat(parts, 1)
    return fit, amplitude, frequency


@lru_cache(maxsize=4)
def _bases(steps: int, low: float, high: float) -> tuple[Tensor, Tensor, Tensor]:
    """The frequencies (F,), their sines and cosines (F, T, 2), and the pseudoinverses of these, (F, 2, T)."""
    first, last = max(low - 0.5, SLOWEST), min(high + 0.5, steps / 2)
    tried = torch.arange(first, last, STEP, dtype=torch.double)
    if (high - low) / FINE < STEP:
        outside = tried[(tried < low) | (tried > high)]
        tried = torch.cat([outside, torch.linspace(low, high, FINE + 1, dtype=torch.double)])
    angle = 2 * math.pi * tried[:, None] * torch.arange(steps) / steps
    basis = torch.stack([angle.sin(), angle.cos()], 2)
    return tried, basis, torch.linalg.pinv(basis)


def uniform_ks(values: Tensor, low: float, high: float) -> Tensor:
    """sup |F_n(v) - F(v)| of values (N,) against U(low, high); 1 if there are no values."""
    if not len(values):
        return values.new_ones(())
    cdf = ((values.sort().values - low) / (high - low)).clamp(0, 1)
    steps = torch.arange(len(cdf) + 1, dtype=cdf.dtype) / len(cdf)
    return torch.maximum(steps[1:] - cdf, cdf - steps[:-1]).max()


class SineFit(Metric):
    """``sine_share``, the share of generated samples (N, T, 1) that a sine fits with R^2 >= 0.98.

    For these, ``ks_amplitude`` and ``ks_frequency`` are the KS distances from the true uniform distributions.
    """

    full_state_update = False
    samples: list[Tensor]

    def __init__(self, amplitudes: tuple[float, float], frequencies: tuple[float, float]) -> None:
        super().__init__()
        self.amplitudes, self.frequencies = amplitudes, frequencies
        self.add_state("samples", default=[], dist_reduce_fx="cat")

    def update(self, generated: Batch, real: Batch) -> None:
        self.samples.append(generated.x.detach())

    def compute(self) -> dict[str, Tensor]:
        x = dim_zero_cat(self.samples).cpu().flatten(1)
        fit, amplitude, frequency = fit_sines(x, self.frequencies)
        is_sine = fit >= FIT
        values = {
            "sine_share": is_sine.double().mean(),
            "ks_amplitude": uniform_ks(amplitude[is_sine], *self.amplitudes),
            "ks_frequency": uniform_ks(frequency[is_sine], *self.frequencies),
        }
        return {name: value.float() for name, value in values.items()}
