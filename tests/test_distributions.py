"""The mixtures against scipy, integrals, and statistics of their samples."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.special import logsumexp
from torch import Tensor
from torch import distributions as td
from torch.testing import assert_close

from gan_lightning.distributions import (
    GaussianMixture,
    cumulative,
    density,
    extent,
    gaussian,
    grid,
    has_cumulative,
    mixture,
    ring,
)

MEANS, STDS, WEIGHTS = [-3.0, 0.5, 2.0], [0.5, 1.0, 0.25], [0.2, 0.5, 0.3]


def line() -> GaussianMixture:
    """Three modes on a line, in double precision."""
    means, stds, weights = (torch.tensor(values, dtype=torch.double) for values in (MEANS, STDS, WEIGHTS))
    return GaussianMixture(means[:, None], stds, weights)


def plane(dimensions: int = 2) -> tuple[GaussianMixture, Tensor]:
    """Three modes of unequal width and weight, in double precision, and their centers."""
    means = torch.randn(3, dimensions, dtype=torch.double)
    stds, weights = (torch.tensor(values, dtype=torch.double) for values in (STDS, WEIGHTS))
    return GaussianMixture(means, stds, weights), means


def parts(samples: Tensor, distribution: GaussianMixture) -> list[Tensor]:
    """Samples of each mode, centered and divided by its standard deviation; right where modes do not overlap."""
    nearest = (samples[:, None] - distribution.modes).square().sum(-1).argmin(1)
    return [
        (samples[nearest == k] - mode) / scale
        for k, (mode, scale) in enumerate(zip(distribution.modes, distribution.scales, strict=True))
    ]


def test_log_prob_on_a_line() -> None:
    x = np.linspace(-6, 5, 101)
    terms = [math.log(w) + stats.norm(m, s).logpdf(x) for m, s, w in zip(MEANS, STDS, WEIGHTS, strict=True)]
    expected = torch.from_numpy(logsumexp(terms, axis=0))
    assert_close(line().log_prob(torch.from_numpy(x)[:, None]), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dimensions", [2, 5])
def test_log_prob_in_more_dimensions(dimensions: int) -> None:
    distribution, means = plane(dimensions)
    x = torch.randn(50, dimensions, dtype=torch.double)
    terms = [
        math.log(w) + stats.multivariate_normal(m.numpy(), s**2 * np.eye(dimensions)).logpdf(x.numpy())
        for m, s, w in zip(means, STDS, WEIGHTS, strict=True)
    ]
    assert_close(distribution.log_prob(x), torch.from_numpy(logsumexp(terms, axis=0)), rtol=1e-12, atol=1e-12)


def test_cdf_against_scipy() -> None:
    x = np.linspace(-6, 5, 101)
    expected = sum(w * stats.norm(m, s).cdf(x) for m, s, w in zip(MEANS, STDS, WEIGHTS, strict=True))
    actual = line().cdf(torch.from_numpy(x))
    assert_close(actual, torch.from_numpy(expected), rtol=0, atol=1e-12)
    assert_close(line().cdf(torch.from_numpy(x)[:, None])[:, 0], actual)  # any shape


def test_cdf_is_the_integral_of_the_density() -> None:
    distribution = line()

    def density(x: float) -> float:
        return distribution.log_prob(torch.tensor([x], dtype=torch.double)).exp().item()

    total, _ = integrate.quad(density, -15, 15, points=MEANS, epsabs=1e-11)
    assert total == pytest.approx(1.0, abs=1e-9)
    for a, b in itertools.pairwise((-4.0, -3.0, 0.1, 2.3, 4.0)):
        mass, _ = integrate.quad(density, a, b, epsabs=1e-11)
        between = distribution.cdf(torch.tensor([a, b], dtype=torch.double)).diff().item()
        assert between == pytest.approx(mass, abs=1e-10)


def test_there_is_no_cdf_in_the_plane() -> None:
    with pytest.raises(ValueError, match="in 2 dimensions"):
        ring().cdf(torch.zeros(2))


@pytest.mark.parametrize("shape", [(), (3,), (3, 4)])
@pytest.mark.parametrize("distribution", [gaussian(), ring(), grid()])
def test_sample_shape(distribution: GaussianMixture, shape: tuple[int, ...]) -> None:
    samples = distribution.sample(shape)
    assert samples.shape == (*shape, *distribution.event_shape)
    assert samples.dtype == torch.float32


def test_samples_on_a_line_follow_the_cdf() -> None:
    """1.63/sqrt(n) is the 1 % bound of the Kolmogorov-Smirnov distance."""
    n = 20_000
    samples = line().sample((n,))[:, 0].numpy()
    exact = sum(w * np.array(m) for m, w in zip(MEANS, WEIGHTS, strict=True))
    variance = sum(w * (s**2 + (m - exact) ** 2) for m, s, w in zip(MEANS, STDS, WEIGHTS, strict=True))
    assert stats.kstest(samples, lambda x: line().cdf(torch.from_numpy(x)).numpy()).statistic < 1.63 / math.sqrt(n)
    assert abs(samples.mean() - exact) < 4 * math.sqrt(variance / n)


@pytest.mark.parametrize("distribution", [ring(), grid()], ids=["ring", "grid"])
def test_every_mode_is_normal_in_both_directions(distribution: GaussianMixture) -> None:
    """2.2/sqrt(n) is passed once in 8,000 times, for there are sixty-six of these tests."""
    for part in parts(distribution.sample((50_000,)), distribution):
        for column in part.T:
            assert stats.kstest(column.numpy(), "norm").statistic < 2.2 / math.sqrt(len(part))
        assert abs(torch.corrcoef(part.T)[0, 1]) < 4 / math.sqrt(len(part))


def test_modes_are_drawn_by_their_weights_and_widths() -> None:
    n, weights, stds = 20_000, [0.1, 0.6, 0.3], [0.02, 0.05, 0.1]
    distribution = GaussianMixture(torch.tensor([[-5.0, 0], [0, 5], [5, 0]]), torch.tensor(stds), torch.tensor(weights))
    for part, weight in zip(parts(distribution.sample((n,)), distribution), weights, strict=True):
        assert abs(len(part) / n - weight) < 4 * math.sqrt(weight * (1 - weight) / n)
        assert abs(part.std().item() - 1) < 4 / math.sqrt(2 * part.numel())


def test_the_default_stream_decides_the_samples() -> None:
    first, second = (torch.manual_seed(seed) and ring().sample((10,)) for seed in (1, 1))
    assert torch.equal(first, second)
    assert not torch.equal(second, ring().sample((10,)))


def test_gaussian() -> None:
    x = torch.linspace(-4, 6, 41)
    expected = torch.from_numpy(stats.norm(1.5, 0.5).logpdf(x.double().numpy()))
    assert_close(gaussian(1.5, 0.5).log_prob(x[:, None]).double(), expected, rtol=1e-5, atol=1e-5)
    assert gaussian(1.5, 0.5).event_shape == (1,)


def test_mixture() -> None:
    x = torch.linspace(-6, 5, 41)
    actual = mixture(MEANS, STDS, WEIGHTS).log_prob(x[:, None])
    assert_close(actual.double(), line().log_prob(x.double()[:, None]), rtol=1e-5, atol=1e-5)


def test_mixture_takes_whole_numbers_and_scales_its_weights() -> None:
    distribution = mixture([0, 4], [1, 2], [1, 3])
    assert distribution.mixture_distribution.probs.tolist() == [0.25, 0.75]
    assert distribution.modes.tolist() == [[0.0], [4.0]]
    assert distribution.scales.tolist() == [1.0, 2.0]
    assert mixture([0, 4], [1, 2]).mixture_distribution.probs.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("means", "stds", "weights", "message"),
    [
        ([0.0, 1.0, 2.0], [1.0, 1.0], None, "3 means, 2 stds and 3 weights"),
        ([0.0, 1.0], [1.0, 1.0], [1.0], "2 means, 2 stds and 1 weights"),
        ([0.0], [1.0, 1.0], None, "1 means, 2 stds and 1 weights"),
        ([], [], None, "0 means, 0 stds and 0 weights"),
        ([0.0, 1.0], [1.0, 0.0], None, "all must be above 0"),
        ([0.0, 1.0], [1.0, -1.0], None, "all must be above 0"),
        ([0.0, 1.0], [1.0, 1.0], [1.0, 0.0], "all must be above 0"),
    ],
)
def test_bad_mixtures_are_refused(
    means: list[float], stds: list[float], weights: list[float] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        mixture(means, stds, weights)


@pytest.mark.parametrize(("modes", "radius"), [(8, 1.0), (3, 2.0)])
def test_ring_has_distinct_modes_at_equal_angles(modes: int, radius: float) -> None:
    """Angles that end at 2 pi would put the last mode on the first: eight would be seven."""
    centers = ring(modes, radius).modes.double()
    assert centers.shape == (modes, 2)
    assert_close(centers.norm(dim=1), torch.full((modes,), radius, dtype=torch.double), rtol=0, atol=1e-6)
    neighbors = (centers - centers.roll(1, 0)).norm(dim=1)
    side = 2 * radius * math.sin(math.pi / modes)
    assert_close(neighbors, torch.full((modes,), side, dtype=torch.double), rtol=0, atol=1e-6)
    assert torch.pdist(centers).min() > 0.99 * side


def test_ring_is_that_of_the_literature() -> None:
    assert len(ring().modes) == 8
    assert_close(ring().scales, torch.full((8,), 0.01))
    assert_close(ring().mixture_distribution.probs, torch.full((8,), 1 / 8))


def test_grid_is_that_of_the_literature() -> None:
    line = (-4.0, -2.0, 0.0, 2.0, 4.0)
    assert len(grid().modes) == 25
    assert {tuple(mode) for mode in grid().modes.tolist()} == set(itertools.product(line, line))
    assert_close(grid().scales, torch.full((25,), 0.05))
    assert_close(grid().mixture_distribution.probs, torch.full((25,), 1 / 25))


def test_an_even_grid_is_centered() -> None:
    assert {tuple(mode) for mode in grid(2, 3.0).modes.tolist()} == set(itertools.product((-1.5, 1.5), repeat=2))


# ------------------------------------------------------------------------------------------------- samples with modes


@pytest.mark.parametrize("distribution", [ring(), grid(), line(), gaussian()])
def test_samples_with_modes_are_the_samples(distribution: GaussianMixture) -> None:
    """The mode first, then one normal variable: to the last bit what the random numbers say."""
    torch.manual_seed(5)
    modes = distribution.mixture_distribution.sample(torch.Size([300]))
    samples = distribution.sample_of(modes)
    torch.manual_seed(5)
    assert torch.equal(distribution.sample((300,)), samples)
    torch.manual_seed(5)
    by_hand = torch.multinomial(distribution.mixture_distribution.probs, 300, replacement=True)
    assert torch.equal(modes, by_hand)
    noise = torch.randn(300, samples.shape[1])
    assert torch.equal(samples, distribution.modes[modes] + distribution.scales[modes, None] * noise)


def test_a_mode_is_the_one_that_the_sample_is_near() -> None:
    """Modes of the grid are 40 standard deviations apart."""
    modes = grid().mixture_distribution.sample(torch.Size([2000]))
    samples = grid().sample_of(modes)
    assert modes.dtype == torch.int64
    assert torch.equal(torch.cdist(samples, grid().modes).argmin(1), modes)


# ---------------------------------------------------------------------------------------------- others on a line


def one(value: float) -> Tensor:
    return torch.tensor([value])


LINE = [
    (td.Normal(1.0, 2.0), stats.norm(1, 2)),
    (td.Independent(td.Normal(one(1.0), one(2.0)), 1), stats.norm(1, 2)),
    (td.Independent(td.Exponential(one(2.0)), 1), stats.expon(scale=0.5)),
    (td.Uniform(1.0, 2.0), stats.uniform(1, 1)),
    (td.LogNormal(0.0, 1.0), stats.lognorm(1)),
    (td.Cauchy(0.0, 1.0), stats.cauchy()),
    (td.Gamma(2.0, 1.0), stats.gamma(2)),
    (gaussian(1.0, 2.0), stats.norm(1, 2)),
]
WITHOUT_CDF = [
    (td.Beta(2.0, 3.0), stats.beta(2, 3)),
    (td.MultivariateNormal(one(1.0), torch.tensor([[4.0]])), stats.norm(1, 2)),
]


@pytest.mark.parametrize(("distribution", "scipys"), LINE)
def test_cumulative_on_a_line_inside_and_outside_of_the_support(distribution: td.Distribution, scipys: Any) -> None:
    x = torch.linspace(-3.001, 8.999, 50, dtype=torch.double)
    assert has_cumulative(distribution)
    assert_close(cumulative(distribution, x), torch.from_numpy(scipys.cdf(x.numpy())), rtol=0, atol=1e-7)


@pytest.mark.parametrize(("distribution", "scipys"), [*LINE, *WITHOUT_CDF])
def test_density_on_a_line_inside_and_outside_of_the_support(distribution: td.Distribution, scipys: Any) -> None:
    x = torch.linspace(-3.001, 8.999, 50, dtype=torch.double)
    assert_close(density(distribution, x).double(), torch.from_numpy(scipys.pdf(x.numpy())), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("distribution", "scipys"), [*LINE, *WITHOUT_CDF])
def test_nearly_all_lies_in_the_extent(distribution: td.Distribution, scipys: Any) -> None:
    before = torch.get_rng_state()
    low, high = extent(distribution)
    assert torch.equal(torch.get_rng_state(), before)
    assert 0.995 < scipys.cdf(high) - scipys.cdf(low) <= 1


@pytest.mark.parametrize("distribution", [*(d for d, _ in WITHOUT_CDF), ring(), td.Poisson(3.0)])
def test_what_has_no_cumulative(distribution: td.Distribution) -> None:
    assert not has_cumulative(distribution)
