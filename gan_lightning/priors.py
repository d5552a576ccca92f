"""Priors of the latent variable z, shape (N, size)."""

import math

import torch
from torch import Tensor, nn

from gan_lightning.errors import UsageError


class Prior(nn.Module):
    """Base of the priors; ``size`` is the dimension of z."""

    def __init__(self, size: int) -> None:
        super().__init__()
        if size < 1:
            raise UsageError(f"model.latent_size is {size}: give a whole number, at least 1.")
        self.size = size

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n latents (n, size), on the generator's device, or on the CPU from torch's global state without one."""
        raise TypeError(f"{type(self).__name__} must define how to sample")


class Normal(Prior):
    """z ~ N(0, I)."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(n, self.size, generator=generator, device=_device(generator))


class Uniform(Prior):
    """z ~ U(low, high), i.i.d.; the default bounds give zero mean and unit variance."""

    def __init__(self, size: int, low: float = -math.sqrt(3), high: float = math.sqrt(3)) -> None:
        super().__init__(size)
        if not low < high:
            raise UsageError(f"prior.low is {low} and prior.high is {high}: low must be less than high.")
        self.low, self.high = low, high

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        latents = torch.empty(n, self.size, device=_device(generator))
        return latents.uniform_(self.low, self.high, generator=generator)


class Bernoulli(Prior):
    """z in {0, 1}, independent fair bits."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.randint(2, (n, self.size), generator=generator, device=_device(generator), dtype=torch.float32)


def _device(generator: torch.Generator | None) -> torch.device:
    return torch.device("cpu") if generator is None else generator.device
