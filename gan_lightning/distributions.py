"""Distributions of known density to learn: Gaussian mixtures on a line or in the plane."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal


class GaussianMixture(MixtureSameFamily):
    """sum_k w_k N(mean_k, std_k^2 I) over K modes, means (K, d), for any number d of dimensions.

    Draws a mode and then one normal variable, where the base class draws one for every mode.
    """

    def __init__(self, means: Tensor, std: Tensor | float, weights: Tensor | None = None) -> None:
        std = torch.as_tensor(std, dtype=means.dtype).reshape(-1, 1).expand_as(means)
        weights = torch.ones(len(means)) if weights is None else weights
        self._normal = Normal(means, std)
        super().__init__(Categorical(weights), Independent(self._normal, 1), validate_args=False)

    @property
    def modes(self) -> Tensor:
        """Centres of the modes, (K, d)."""
        return self._normal.loc

    @property
    def scales(self) -> Tensor:
        """Standard deviations of the modes, (K,)."""
        return self._normal.scale[:, 0]

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        mode = self.mixture_distribution.sample(torch.Size(sample_shape))
        return self.modes[mode] + self.scales[mode, None] * torch.randn(*mode.shape, self.modes.shape[1])

    def cdf(self, value: Tensor) -> Tensor:
        """P(X <= x) in one dimension, any shape."""
        if self.modes.shape[1] != 1:
            raise ValueError(f"A distribution over {self.modes.shape[1]} dimensions has no one-dimensional cdf.")
        normal = Normal(self.modes[:, 0], self.scales, validate_args=False)
        return (normal.cdf(value[..., None]) * self.mixture_distribution.probs).sum(-1)


def gaussian(mean: float = 0.0, std: float = 1.0) -> GaussianMixture:
    """N(mean, std^2) in one dimension."""
    return GaussianMixture(torch.tensor([[float(mean)]]), std)


def mixture(means: Sequence[float], stds: Sequence[float], weights: Sequence[float] | None = None) -> GaussianMixture:
    """sum_k w_k N(mean_k, std_k^2) in one dimension.

    Raises:
        ValueError: the lists are empty or differ in length, or a standard deviation or weight is not positive.
    """
    weights = weights or [1.0] * len(means)
    if not 0 < len(means) == len(stds) == len(weights):
        raise ValueError(
            f"data.distribution has {len(means)} means, {len(stds)} stds and {len(weights)} weights: "
            "give as many of each as there are components."
        )
    if min(*stds, *weights) <= 0:
        raise ValueError(f"data.distribution has stds {stds} and weights {weights}: all must be above 0.")
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
