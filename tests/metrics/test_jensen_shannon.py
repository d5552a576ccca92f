"""The Jensen-Shannon divergence against scipy, quadrature and closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.spatial.distance import jensenshannon
from torch import Tensor
from torchmetrics import Metric

from gan_lightning.batch import Batch
from gan_lightning.distributions import GaussianMixture, gaussian, grid, mixture, ring
from gan_lightning.metrics.distribution import JensenShannon, jensen_shannon
from gan_lightning.metrics.modes import ModesJensenShannon


def probabilities(n: int, seed: int, zeros: int = 0) -> Tensor:
    weights = np.random.default_rng(seed).dirichlet(np.full(n, 0.3))
    weights[:zeros] = 0.0
    return torch.from_numpy(weights / weights.sum())


def value(metric: Metric, *batches: Tensor) -> float:
    for batch in batches:
        metric.update(Batch(batch), Batch(torch.zeros_like(batch)))
    return metric.compute().item()


def midpoints(n: int) -> np.ndarray:
    return (np.arange(n) + 0.5) / n


def between_densities(mean: float, std: float) -> float:
    """JSD of N(0, 1) and N(mean, std^2), in nats, by quadrature."""

    def integrand(x: float) -> float:
        p, q = stats.norm(0, 1).logpdf(x), stats.norm(mean, std).logpdf(x)
        m = np.logaddexp(p, q) - math.log(2)
        return 0.5 * (np.exp(p) * (p - m) + np.exp(q) * (q - m))

    return integrate.quad(integrand, -15, 15, points=[0, mean], limit=200)[0]


# ------------------------------------------------------------------------------------------- two probability vectors


@pytest.mark.parametrize(("n", "zeros"), [(2, 0), (10, 0), (10, 4), (1000, 300)])
@pytest.mark.parametrize("seed", range(3))
def test_against_scipy(n: int, zeros: int, seed: int) -> None:
    p, q = probabilities(n, seed), probabilities(n, seed + 100, zeros)
    assert jensen_shannon(p, q).item() == pytest.approx(jensenshannon(p, q) ** 2, abs=1e-12)
    assert jensen_shannon(p, q).item() == pytest.approx(jensen_shannon(q, p).item(), abs=1e-15)


def test_disjoint_supports_are_ln_2_apart() -> None:
    p, q = torch.tensor([0.25, 0.75, 0.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 0.5, 0.5, 0.0])
    assert jensen_shannon(p, q).item() == pytest.approx(math.log(2), rel=1e-6)


def test_a_vector_is_no_distance_from_itself() -> None:
    p = probabilities(20, 1, zeros=5)
    assert jensen_shannon(p, p).item() == 0.0


# ------------------------------------------------------------------------------------------------- along a line


@pytest.mark.parametrize(("mean", "std"), [(0.5, 1.0), (1.0, 1.0), (3.0, 1.0), (0.0, 0.5), (-1.0, 2.0)])
def test_a_little_below_the_densities_divergence(mean: float, std: float) -> None:
    """100 cells lose at most 5 % of it; the midpoints of the distribution's levels stand for a perfect sample."""
    samples = torch.from_numpy(stats.norm(mean, std).ppf(midpoints(100_000)))[:, None]
    exact = between_densities(mean, std)
    measured = value(JensenShannon(gaussian()), samples)
    assert 0.95 * exact < measured < exact


@pytest.mark.parametrize("cells", [4, 25, 100])
def test_cells_against_numpys_histogram(cells: int) -> None:
    samples = np.random.default_rng(4).normal(0.7, 1.3, 3_000)
    edges = [-np.inf, *stats.norm.ppf(np.arange(1, cells) / cells), np.inf]
    shares = np.histogram(samples, edges)[0] / len(samples)
    expected = jensenshannon(np.full(cells, 1 / cells), shares) ** 2
    halves = torch.from_numpy(samples)[:, None].split(1_000)
    assert value(JensenShannon(gaussian(), cells), *halves) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_a_part_of_the_support_has_a_closed_form(share: float) -> None:
    """q uniform over a share s of the levels: KL(p|m) = -s ln((1 + 1/s)/2) + (1-s) ln 2, KL(q|m) = ln(2/(1 + s))."""
    truth = mixture([-3.0, 0.0, 3.0], [0.5, 0.5, 0.5])
    samples = torch.linspace(-8, 8, 200_001, dtype=torch.double)
    levels = truth.cdf(samples)
    cells = JensenShannon(truth)
    wanted = torch.searchsorted(levels, torch.from_numpy(midpoints(10_000) * share))
    s = share
    of_p = -s * math.log((1 + 1 / s) / 2) + (1 - s) * math.log(2)
    of_q = math.log(2 / (1 + s))
    assert value(cells, samples[wanted][:, None]) == pytest.approx(0.5 * (of_p + of_q), abs=1e-3)


def test_collapse_into_one_cell() -> None:
    """q = (1, 0, ..., 0) against the uniform p of n cells."""
    n = 100
    of_p = (math.log(2 / (n + 1)) + (n - 1) * math.log(2)) / n
    of_q = math.log(2 * n / (n + 1))
    samples = torch.full((500, 1), -9.0)
    assert value(JensenShannon(gaussian(), n), samples) == pytest.approx(0.5 * (of_p + of_q), abs=1e-6)


@pytest.mark.parametrize("cells", [10, 100])
def test_perfect_samples_reach_the_floor(cells: int) -> None:
    """8 n JSD of n perfect samples follows chi-square with cells - 1 degrees of freedom."""
    n, repeats = 10_000, 40
    draws = torch.randn(repeats, n, 1, generator=torch.Generator().manual_seed(5))
    values = [value(JensenShannon(gaussian(), cells), draw) for draw in draws]
    floor = (cells - 1) / (8 * n)
    error = math.sqrt(2 * (cells - 1) / repeats) / (8 * n)
    assert abs(np.mean(values) - floor) < 3 * error + 0.02 * floor


# ----------------------------------------------------------------------------------------------- over known modes


@pytest.mark.parametrize("distribution", [ring(), grid()], ids=["ring", "grid"])
def test_a_perfect_sampler_of_modes_is_near_zero(distribution: GaussianMixture) -> None:
    n, cells = 20_000, 2 * len(distribution.modes)
    # the mean of chi-square/8n and twice its standard deviation
    bound = (cells - 1 + 2 * math.sqrt(2 * (cells - 1))) / (8 * n)
    assert 0 < value(ModesJensenShannon(distribution), distribution.sample((n,))) < bound


def test_one_mode_of_eight() -> None:
    """w uniform over 8, q all in one: m = (9/16, 1/16, ...)."""
    distribution = ring()
    samples = distribution.modes[3] + 0.01 * torch.randn(50_000, 2)
    of_w = math.log(2 / 9) / 8 + 7 / 8 * math.log(2)
    of_q = math.log(16 / 9)
    assert value(ModesJensenShannon(distribution), samples) == pytest.approx(0.5 * (of_w + of_q), abs=1e-3)


def test_all_modes_but_each_a_point() -> None:
    """Samples at the centers: all of high quality, where it should be 1 - exp(-9/2)."""
    distribution = ring()
    inside = 1 - math.exp(-4.5)
    expected = jensenshannon([inside, 1 - inside], [1.0, 0.0]) ** 2
    measured = value(ModesJensenShannon(distribution), distribution.modes.repeat(5, 1))
    assert measured == pytest.approx(expected, abs=1e-6)


def test_far_from_every_mode() -> None:
    """All of low quality, evenly shared: p has 1 - exp(-9/2) of high quality."""
    distribution = ring()
    inside = 1 - math.exp(-4.5)
    expected = jensenshannon([inside, 1 - inside], [0.0, 1.0]) ** 2
    measured = value(ModesJensenShannon(distribution), 2 * distribution.modes)
    assert measured == pytest.approx(expected, abs=1e-6)


def test_unequal_weights_count() -> None:
    means = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    distribution = GaussianMixture(means, torch.tensor([0.1, 0.4]), torch.tensor([0.1, 0.9]))
    samples = means.repeat(10, 1)
    inside = 1 - math.exp(-4.5)
    true = [0.1 * inside, 0.9 * inside, 0.1 * (1 - inside), 0.9 * (1 - inside)]
    expected = jensenshannon(true, [0.5, 0.5, 0.0, 0.0]) ** 2
    assert value(ModesJensenShannon(distribution), samples) == pytest.approx(expected, abs=1e-6)
