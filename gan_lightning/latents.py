"""Truncated latents, and interpolation between latents."""

import math

import torch
from torch import Tensor

from gan_lightning.errors import UsageError
from gan_lightning.priors import Normal, Prior


def truncated(prior: Prior, n: int, threshold: float, generator: torch.Generator) -> Tensor:
    """Draw n latents (n, size) from N(0, 1), redrawing coordinates until |z| <= threshold (Brock et al. 2019, 3.1).

    Raises:
        UsageError: the prior is not normal.
    """
    if not isinstance(prior, Normal):
        raise UsageError(
            f"truncation={threshold} is for a normal prior, but this generator was trained with "
            f"{type(prior).__name__}: leave it out."
        )
    latents = prior.sample(n, generator)
    # the accepted draw has the distribution of F^-1(u), where F is the cdf of the truncated N(0, 1)
    symmetric = 2 * torch.rand(latents.shape, generator=generator, device=generator.device, dtype=torch.float64) - 1
    redrawn = math.sqrt(2) * torch.erfinv(math.erf(threshold / math.sqrt(2)) * symmetric)
    return torch.where(latents.abs() > threshold, redrawn.clamp(-threshold, threshold).to(latents.dtype), latents)


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """(sin((1 - t) w) a + sin(t w) b) / sin(w), w the angle between a and b (Shoemake 1985; for latents White 2016).

    a and b are (..., size), and t broadcasts against (..., 1). Interpolation is linear if a and b are collinear.
    """
    cosine = torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=-1).clamp(-1, 1)[..., None]
    angle = cosine.acos()
    sine = angle.sin()
    arc = ((1 - t) * angle).sin() / sine * a + (t * angle).sin() / sine * b
    return torch.where(sine < 1e-6, torch.lerp(a.double(), b.double(), t.double()), arc).to(a.dtype)


def between(prior: Prior, a: Tensor, b: Tensor, frames: int) -> Tensor:
    """Interpolate with ``frames`` latents from each a to its b, both included, (n, size) to (n, frames, size).

    Spherical for a normal prior, whose latents lie near a sphere; linear for other priors.
    """
    t = torch.linspace(0, 1, frames, dtype=torch.float64)[:, None]
    a, b = a[:, None], b[:, None]
    if isinstance(prior, Normal):
        return slerp(a, b, t)
    return torch.lerp(a.double(), b.double(), t).to(a.dtype)


def closed_walk(prior: Prior, visited: Tensor, frames: int) -> Tensor:
    """A closed path through latents (n, size), back to the first, without repeated points, (n, frames - 1, size)."""
    return between(prior, visited, visited.roll(-1, 0), frames)[:, :-1]
