"""Parzen-window log-likelihood, the measure of Goodfellow et al. 2014, table 1 (Breuleux et al. 2009)."""

import math

import torch
from torch import Tensor


def log_likelihood(points: Tensor, samples: Tensor, sigma: float, block: int = 1000) -> Tensor:
    """log (1/n) sum_i N(x; s_i, sigma^2 I) in nats of each point x, (N,), for points (N, d) and samples (n, d)."""
    n, d = samples.shape
    constant = -math.log(n) - d * math.log(sigma * math.sqrt(2 * math.pi))
    blocks = [torch.cdist(x, samples).square() / (-2 * sigma**2) for x in points.split(block)]
    return torch.cat([exponents.logsumexp(1) for exponents in blocks]) + constant


def choose_sigma(validation: Tensor, samples: Tensor, sigmas: Tensor | None = None) -> float:
    """The width with the largest mean log-likelihood on validation points (default: ten from 0.1 to 1)."""
    sigmas = torch.logspace(-1, 0, 10) if sigmas is None else sigmas
    return max(sigmas.tolist(), key=lambda sigma: log_likelihood(validation, samples, sigma).mean().item())
