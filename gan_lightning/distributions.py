"""Distributions of known density: Gaussian mixtures, and properties of any one-dimensional distribution."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from gan_lightning.errors import UsageError
from gan_lightning.streams import own_stream


class GaussianMixture(MixtureSameFamily):
    """sum_k w_k N(mean_k, std_k^2 I) over K modes, means (K, d), in any number d of dimensions.

    Sampling draws a mode and then one normal variable, while the base class draws one for every mode.
    """

    def __init__(self, means: Tensor, std: Tensor | float, weights: Tensor | None = None) -> None:
        std = torch.as_tensor(std, dtype=torch.float64).to(means.dtype).reshape(-1, 1).expand_as(means)
        if not (means.isfinite().all() and std.isfinite().all() and (std > 0).all()):
            raise UsageError(
                f"data.distribution has means from {means.min().item():g} to {means.max().item():g} and standard "
                f"deviations from {std.min().item():g} to {std.max().item():g} in {means.dtype}: all must be finite, "
                "and standard deviations above 0."
            )
        weights = torch.ones(len(means)) if weights is None else weights
        self._normal = Normal(means, std)
        super().__init__(Categorical(weights), Independent(self._normal, 1), validate_args=False)

    @property
    def modes(self) -> Tensor:
        """Centers of the modes, (K, d)."""
        return self._normal.loc

    @property
    def scales(self) -> Tensor:
        """Standard deviations of the modes, (K,)."""
        return self._normal.scale[:, 0]

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        return self.sample_of(self.mixture_distribution.sample(torch.Size(sample_shape)))

    def sample_of(self, mode: Tensor) -> Tensor:
        """Draw a sample of each mode, (*mode.shape, d)."""
        return self.modes[mode] + self.scales[mode, None] * torch.randn(*mode.shape, self.modes.shape[1])

    def cdf(self, value: Tensor) -> Tensor:
        """P(X <= x) in one dimension, for values of any shape."""
        if self.modes.shape[1] != 1:
            raise UsageError(f"A distribution in {self.modes.shape[1]} dimensions has no one-dimensional cdf.")
        normal = Normal(self.modes[:, 0], self.scales, validate_args=False)
        return (normal.cdf(value[..., None]) * self.mixture_distribution.probs).sum(-1)


def gaussian(mean: float = 0.0, std: float = 1.0) -> GaussianMixture:
    """N(mean, std^2) in one dimension."""
    return GaussianMixture(torch.tensor([[float(mean)]], dtype=torch.float64).float(), std)


def mixture(means: Sequence[float], stds: Sequence[float], weights: Sequence[float] | None = None) -> GaussianMixture:
    """sum_k w_k N(mean_k, std_k^2) in one dimension.

    Raises:
        UsageError: the lists are empty or differ in length, or a standard deviation or weight is not positive.
    """
    weights = weights or [1.0] * len(means)
    if not 0 < len(means) == len(stds) == len(weights):
        raise UsageError(
            f"data.distribution has {len(means)} means, {len(stds)} stds and {len(weights)} weights: "
            "give as many of each as there are components."
        )
    if min(*stds, *weights) <= 0:
        raise UsageError(f"data.distribution has stds {stds} and weights {weights}: all must be above 0.")
    return GaussianMixture(
        torch.tensor(means)[:, None].float(), torch.tensor(stds).float(), torch.tensor(weights).float()
    )


def ring(modes: int = 8, radius: float = 1.0, sigma: float = 0.01) -> GaussianMixture:
    """Equal modes at equal angles on a circle (Lin et al. 2018, appendix A.1)."""
    angle = 2 * math.pi * torch.arange(modes) / modes
    return GaussianMixture(radius * torch.stack([angle.cos(), angle.sin()], 1), sigma)


def grid(side: int = 5, spacing: float = 2.0, sigma: float = 0.05) -> GaussianMixture:
    """side x side equal modes on a square grid around the origin (Lin et al. 2018, appendix A.1)."""
    line = spacing * (torch.arange(side) - (side - 1) / 2)
    return GaussianMixture(torch.cartesian_prod(line, line), sigma)


# ---------------------------------------------------------------------------------- any one-dimensional distribution


def cumulative(distribution: Distribution, x: Tensor) -> Tensor:
    """P(X <= x) at points x (N,), which may be outside the support.

    Raises:
        NotImplementedError: torch does not implement the cdf of this distribution.
    """
    if isinstance(distribution, GaussianMixture):
        return distribution.cdf(x)
    while isinstance(distribution, Independent):  # has no cdf itself, but in one dimension its base's is the same
        distribution = distribution.base_dist
    inside, typical = _support(distribution, x)
    outside = (x > typical).to(x.dtype)  # 1 above an interval, 0 below it
    return torch.where(inside, distribution.cdf(torch.where(inside, x, typical)), outside)


def has_cumulative(distribution: Distribution) -> bool:
    """Whether the distribution is one-dimensional and torch implements its cdf."""
    if distribution.event_shape.numel() != 1:
        return False
    try:
        cumulative(distribution, torch.zeros(1))
    except NotImplementedError:
        return False
    return True


def has_density(distribution: Distribution) -> bool:
    """Whether torch implements the density of this one-dimensional distribution."""
    try:
        density(distribution, torch.zeros(1))
    except NotImplementedError:
        return False
    return True


def density(distribution: Distribution, x: Tensor) -> Tensor:
    """p(x) at points x (N,); 0 outside the support."""
    points = x.view(-1, *distribution.event_shape)
    inside, typical = _support(distribution, points)
    points = torch.where(inside.view(-1, *[1] * (points.dim() - 1)), points, typical)
    return torch.where(inside, distribution.log_prob(points).exp(), 0.0)


def extent(distribution: Distribution) -> tuple[float, float]:
    """An interval with nearly all of the mass of a one-dimensional distribution."""
    if isinstance(distribution, GaussianMixture):
        reach = 4 * distribution.scales.max()
        return (distribution.modes.min() - reach).item(), (distribution.modes.max() + reach).item()
    with own_stream(0):
        samples = distribution.sample(torch.Size([10_000])).flatten().float()
    low, high = samples.quantile(torch.tensor([0.0005, 0.9995])).tolist()
    return low, high


def _support(distribution: Distribution, points: Tensor) -> tuple[Tensor, Tensor]:
    """Which points are in the support, (N,), and a point inside it."""
    with own_stream(0):
        typical = distribution.sample().to(points.dtype)
    return distribution.support.check(points), typical  # type: ignore[union-attr]
