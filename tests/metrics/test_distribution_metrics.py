"""Distances to a known distribution, against scipy and closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor
from torch.testing import assert_close
from torchmetrics import Metric, MetricCollection

from gan_lightning.batch import Batch
from gan_lightning.distributions import GaussianMixture, gaussian, mixture
from gan_lightning.metrics import distribution as distribution_
from gan_lightning.metrics.distribution import (
    KolmogorovSmirnov,
    Wasserstein,
    kolmogorov_smirnov,
    quantile,
    wasserstein,
)

MEANS, STDS, WEIGHTS = [-3.0, 0.0, 3.0], [0.5, 1.0, 0.25], [0.25, 0.5, 0.25]
METRICS = [KolmogorovSmirnov, Wasserstein]


def double(means: list[float], stds: list[float], weights: list[float]) -> GaussianMixture:
    """A mixture on a line in double precision."""
    m, s, w = (torch.tensor(values, dtype=torch.double) for values in (means, stds, weights))
    return GaussianMixture(m[:, None], s, w)


def normal(mean: float = 0.0, std: float = 1.0) -> GaussianMixture:
    return double([mean], [std], [1.0])


def w1(samples: Tensor, distribution: GaussianMixture) -> Tensor:
    return wasserstein(samples, distribution_.midpoints(distribution, samples.numel()))


def mixture_cdf(x: np.ndarray) -> np.ndarray:
    return sum(w * stats.norm(m, s).cdf(x) for m, s, w in zip(MEANS, STDS, WEIGHTS, strict=True))


def midpoints(n: int) -> np.ndarray:
    return (np.arange(n) + 0.5) / n


@pytest.mark.parametrize("n", [1, 2, 17, 1000])
def test_kolmogorov_smirnov_against_scipy(n: int) -> None:
    samples = 2 * torch.randn(n, dtype=torch.double) + 0.3
    distance = kolmogorov_smirnov(samples, double(MEANS, STDS, WEIGHTS))
    assert distance.item() == pytest.approx(stats.kstest(samples.numpy(), mixture_cdf).statistic, abs=1e-12)


def test_kolmogorov_smirnov_with_ties() -> None:
    samples = torch.randn(200, dtype=torch.double).round(decimals=1)
    expected = stats.kstest(samples.numpy(), "norm").statistic
    assert kolmogorov_smirnov(samples, normal()).item() == pytest.approx(expected, abs=1e-12)


def test_kolmogorov_smirnov_of_a_collapse() -> None:
    """All the mass at the median is one half away, all of it far off to a side one whole."""
    assert kolmogorov_smirnov(torch.zeros(100), normal()).item() == pytest.approx(0.5, abs=1e-12)
    assert kolmogorov_smirnov(torch.full((100,), -40.0), normal()).item() == pytest.approx(1.0, abs=1e-12)
    assert kolmogorov_smirnov(torch.full((100,), 40.0), normal()).item() == pytest.approx(1.0, abs=1e-12)


def test_kolmogorov_smirnov_of_the_quantiles_is_half_a_step() -> None:
    samples = torch.from_numpy(stats.norm.ppf(midpoints(50)))
    assert kolmogorov_smirnov(samples, normal()).item() == pytest.approx(0.01, abs=1e-12)


def test_kolmogorov_smirnov_floor_of_a_perfect_sampler() -> None:
    """Below 1.63/sqrt(n), the 1 % bound, and above what even the best of samples can have, 1/2n."""
    n = 10_000
    distribution = mixture(MEANS, STDS, WEIGHTS)
    distance = kolmogorov_smirnov(distribution.sample((n,)), distribution).item()
    assert 1 / (2 * n) < distance < 1.63 / math.sqrt(n)


@pytest.mark.parametrize("shift", [-2.0, 0.0, 0.3])
def test_wasserstein_of_shifted_quantiles_is_the_shift(shift: float) -> None:
    samples = torch.from_numpy(stats.norm.ppf(midpoints(1000)) + shift)
    assert w1(samples, normal()).item() == pytest.approx(abs(shift), abs=1e-12)


def test_wasserstein_of_equal_gaussians_is_the_difference_of_means() -> None:
    """Samples of N(2, 1) against N(0, 1): the mean of x - F^-1(u), with a standard error of 1/sqrt(n)."""
    n = 10_000
    assert abs(w1(2 + torch.randn(n), normal()).item() - 2.0) < 4 / math.sqrt(n)


def test_wasserstein_of_a_wider_gaussian() -> None:
    """W1(N(0, 2^2), N(0, 1)) = (2 - 1) E|Z| = sqrt(2/pi), by the midpoints' quantiles of a large n."""
    samples = torch.from_numpy(2 * stats.norm.ppf(midpoints(20_000)))
    assert w1(samples, normal()).item() == pytest.approx(math.sqrt(2 / math.pi), rel=1e-3)


@pytest.mark.parametrize("n", [500, 5000])
def test_wasserstein_against_the_integral_of_the_cdfs(n: int) -> None:
    """W1 = integral |F_n(x) - F(x)| dx, as scipy has it for the samples and a fine sample of quantiles."""
    samples = 2 * torch.randn(n, dtype=torch.double) + 0.5
    distribution = double(MEANS, STDS, WEIGHTS)
    reference = quantile(distribution, torch.from_numpy(midpoints(20 * n)))
    expected = stats.wasserstein_distance(samples.numpy(), reference.numpy())
    assert expected > 0.2
    assert w1(samples, distribution).item() == pytest.approx(expected, abs=2 / n)


def test_wasserstein_of_a_perfect_sampler() -> None:
    """E W1 <= integral sqrt(F (1 - F)) dx / sqrt(n) (Bobkov & Ledoux 2019, theorem 3.2); twice that is far out."""
    n = 10_000
    spread, _ = integrate.quad(lambda x: math.sqrt(stats.norm.cdf(x) * stats.norm.sf(x)), -20, 20)
    assert 0 < w1(torch.randn(n), normal()).item() < 2 * spread / math.sqrt(n)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1000.0, 0.01), (-7.0, 3.0)])
def test_quantile_of_a_gaussian(mean: float, std: float) -> None:
    levels = np.array([1e-6, 0.01, 0.3, 0.5, 0.9, 1 - 1e-6])
    expected = torch.from_numpy(stats.norm(mean, std).ppf(levels))
    assert_close(quantile(normal(mean, std), torch.from_numpy(levels)), expected, rtol=1e-12, atol=1e-9 * std)


def test_quantile_inverts_the_cdf() -> None:
    levels = torch.from_numpy(midpoints(99))
    x = quantile(double(MEANS, STDS, WEIGHTS), levels)
    assert_close(torch.from_numpy(mixture_cdf(x.numpy())), levels, rtol=0, atol=1e-12)
    assert (x.diff() > 0).all()


@pytest.mark.parametrize("distance", [kolmogorov_smirnov, w1])
def test_the_samples_shape_and_order_say_nothing(distance: object) -> None:
    assert callable(distance)
    samples = torch.randn(60)
    expected = distance(samples, normal())
    assert_close(distance(samples.flip(0).view(30, 2), normal()), expected)


@pytest.mark.parametrize("distance", [kolmogorov_smirnov, w1])
def test_a_broken_generator_scores_no_number(distance: object) -> None:
    assert callable(distance)
    assert distance(torch.tensor([0.0, math.nan, 1.0]), normal()).isnan()


def value(metric: Metric, *batches: Tensor) -> float:
    for batch in batches:
        metric.update(Batch(batch), Batch(torch.zeros_like(batch)))
    return metric.compute().item()


@pytest.mark.parametrize(("metric", "function"), [(KolmogorovSmirnov, kolmogorov_smirnov), (Wasserstein, w1)])
def test_metrics_gather_their_batches(metric: type[Metric], function: object) -> None:
    assert callable(function)
    samples = torch.randn(100, 1) + 0.1
    expected = function(samples, gaussian()).item()
    assert value(metric(gaussian()), samples) == pytest.approx(expected, rel=1e-6)
    assert value(metric(gaussian()), *samples.split(33)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_forget_when_reset(metric: type[Metric]) -> None:
    samples, others = torch.randn(2, 50, 1)
    used = metric(gaussian())
    value(used, samples)
    used.reset()
    assert value(used, others) == value(metric(gaussian()), others)


def test_metrics_of_a_collection_share_their_samples() -> None:
    batches = torch.randn(3, 40, 1)
    together = MetricCollection({"ks": KolmogorovSmirnov(gaussian()), "wasserstein": Wasserstein(gaussian())})
    for batch in batches:
        together.update(Batch(batch), Batch(batch))
    alone = {
        "ks": value(KolmogorovSmirnov(gaussian()), *batches),
        "wasserstein": value(Wasserstein(gaussian()), *batches),
    }
    assert {name: v.item() for name, v in together.compute().items()} == alone


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_leave_the_global_stream_alone(metric: type[Metric]) -> None:
    samples = torch.randn(50, 1)
    before = torch.get_rng_state()
    value(metric(gaussian()), samples)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_keep_no_graph(metric: type[Metric]) -> None:
    used = metric(gaussian())
    used.update(Batch(torch.randn(5, 1, requires_grad=True)), Batch(torch.zeros(5, 1)))
    assert not used.samples[0].requires_grad
