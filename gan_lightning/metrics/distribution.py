"""Distances between one-dimensional samples and the exact distribution."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from gan_lightning.batch import Batch
from gan_lightning.distributions import cumulative


def kolmogorov_smirnov(samples: Tensor, distribution: Distribution) -> Tensor:
    """sup_x |F_n(x) - F(x)| of n samples, any shape, against the distribution's cdf (Kolmogorov 1933)."""
    cdf = cumulative(distribution, samples.flatten().double().sort().values)
    steps = torch.arange(len(cdf) + 1, dtype=torch.double, device=cdf.device) / len(cdf)
    return torch.maximum(steps[1:] - cdf, cdf - steps[:-1]).max()


def wasserstein(samples: Tensor, quantiles: Tensor) -> Tensor:
    """W_1 = integral |F_n^{-1}(u) - F^{-1}(u)| du over (0, 1), by the midpoints of the n steps of F_n.

    ``quantiles`` (n,) are F^{-1} there, as ``midpoints`` computes them.
    """
    return (samples.flatten().double().sort().values - quantiles).abs().mean()


def midpoints(distribution: Distribution, n: int) -> Tensor:
    """F^{-1} at the midpoints of n equal steps, (n,)."""
    return quantile(distribution, (torch.arange(n, dtype=torch.double) + 0.5) / n)


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """JSD(p, q) = KL(p | m)/2 + KL(q | m)/2, m = (p + q)/2, in nats, of two probability vectors."""
    mean = (p + q) / 2
    return 0.5 * (torch.special.xlogy(p, p / mean).nansum() + torch.special.xlogy(q, q / mean).nansum())


def quantile(distribution: Distribution, levels: Tensor) -> Tensor:
    """F^{-1}(u) for levels in (0, 1), by bisection to the last bit of a double."""
    low, high = torch.full_like(levels, -1.0), torch.full_like(levels, 1.0)
    while (cumulative(distribution, low) > levels).any():
        low *= 2
    while (cumulative(distribution, high) < levels).any():
        high *= 2
    for _ in range(64):
        middle = (low + high) / 2
        below = cumulative(distribution, middle) < levels
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


class _AgainstDistribution(Metric):
    """Gathers generated samples from all batches and ranks."""

    full_state_update = False
    samples: list[Tensor]

    def __init__(self, distribution: Distribution) -> None:
        super().__init__()
        self.distribution = distribution
        self.add_state("samples", default=[], dist_reduce_fx="cat")

    def update(self, generated: Batch, real: Batch) -> None:
        self.samples.append(generated.x.detach())

    def _gathered(self) -> Any:
        # the ranks exchange samples on their devices, but the distribution's parameters are on the CPU
        return dim_zero_cat(self.samples).cpu()


class KolmogorovSmirnov(_AgainstDistribution):
    """The Kolmogorov-Smirnov distance of the generated samples; 5% of perfect sets of 10,000 exceed .0136."""

    def compute(self) -> Tensor:
        return kolmogorov_smirnov(self._gathered(), self.distribution).float()


class Wasserstein(_AgainstDistribution):
    """The Wasserstein-1 distance of the generated samples, in units of the data."""

    def __init__(self, distribution: Distribution) -> None:
        super().__init__(distribution)
        self.quantiles = torch.empty(0)  # cached for the number of samples, since they take most of the time

    def compute(self) -> Tensor:
        samples = self._gathered()
        if samples.numel() != len(self.quantiles):
            self.quantiles = midpoints(self.distribution, samples.numel())
        return wasserstein(samples, self.quantiles).float()


class JensenShannon(_AgainstDistribution):
    """JSD in nats over ``cells`` intervals of equal true probability, a lower bound on that of the densities.

    n perfect samples give about (cells - 1)/8n, .0012 for 10,000.
    """

    def __init__(self, distribution: Distribution, cells: int = 100) -> None:
        super().__init__(distribution)
        self.edges = quantile(distribution, torch.arange(1, cells, dtype=torch.double) / cells)

    def compute(self) -> Tensor:
        cell = torch.bucketize(self._gathered().flatten().double(), self.edges)
        shares = torch.bincount(cell, minlength=len(self.edges) + 1) / len(cell)
        return jensen_shannon(torch.full_like(shares, 1 / len(shares)), shares)
