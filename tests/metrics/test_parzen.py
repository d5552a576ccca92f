"""The Parzen-window estimate against a kernel density written out."""

import math

import torch
from scipy.special import logsumexp
from torch.testing import assert_close

from gan_lightning.metrics.parzen import choose_sigma, log_likelihood


def test_log_likelihood_is_the_written_out_mixture() -> None:
    points, samples = torch.randn(7, 3, dtype=torch.double), torch.randn(11, 3, dtype=torch.double)
    expected = [
        logsumexp([-((x - s) ** 2).sum().item() / (2 * 0.3**2) for s in samples])
        - math.log(11)
        - 1.5 * math.log(2 * math.pi * 0.3**2)
        for x in points
    ]
    assert_close(log_likelihood(points, samples, 0.3, block=2), torch.tensor(expected, dtype=torch.double))


def test_it_is_a_density() -> None:
    line = torch.linspace(-8, 8, 4001, dtype=torch.double)
    density = log_likelihood(line[:, None], torch.randn(50, 1, dtype=torch.double), 0.4).exp()
    assert_close(torch.trapezoid(density, line).item(), 1.0, rtol=0, atol=1e-6)


def test_the_width_fits_the_spacing_of_the_samples() -> None:
    # validation points lie 0.2 from their samples in each of 100 dimensions: the best width is 0.2
    samples = 10 * torch.randn(20, 100)
    validation = samples + 0.2 * torch.randn(20, 100)
    assert abs(choose_sigma(validation, samples) - 0.2) < 0.03
