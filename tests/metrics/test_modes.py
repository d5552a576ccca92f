"""Coverage of modes against counting by hand, and against the ceilings of a perfect sampler."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.testing import assert_close
from torchmetrics import Metric, MetricCollection

from gan_lightning.batch import Batch
from gan_lightning.distributions import GaussianMixture, grid, mixture, ring
from gan_lightning.metrics.modes import (
    HighQuality,
    Modes,
    ModesJensenShannon,
    ReverseKL,
    ReverseKLHighQuality,
    Width,
    are_apart,
    nearest_mode,
    true_shares,
    variance_within,
)

METRICS = [Modes, HighQuality, ReverseKL, ReverseKLHighQuality, Width]


def value(metric: Metric, *batches: Tensor) -> float:
    for batch in batches:
        metric.update(Batch(batch), Batch(torch.zeros_like(batch)))
    return metric.compute().item()


def uneven() -> GaussianMixture:
    """Four modes of different widths and weights."""
    means = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0], [-3.0, -3.0]])
    return GaussianMixture(means, torch.tensor([0.1, 0.2, 0.4, 0.3]), torch.tensor([0.1, 0.2, 0.3, 0.4]))


def by_hand(samples: Tensor, distribution: GaussianMixture) -> tuple[int, float, float, float]:
    """Modes, share of high quality and the reverse KL of all samples and of those, one sample at a time."""
    modes, scales = distribution.modes.double().numpy(), distribution.scales.double().numpy()
    weights = distribution.mixture_distribution.probs.double().numpy()
    assigned, good = np.zeros(len(modes)), np.zeros(len(modes))
    for sample in samples.double().numpy():
        distances = np.sqrt(((modes - sample) ** 2).sum(1))
        k = distances.argmin()
        assigned[k] += 1
        good[k] += distances[k] < 3 * scales[k]
    divergences = [
        sum(q * math.log(q / w) for q, w in zip(counts / counts.sum(), weights, strict=True) if q > 0)
        for counts in (assigned, good if good.any() else np.arange(len(modes)) == weights.argmin())
    ]
    return int((good > 0).sum()), good.sum() / len(samples), *divergences


@pytest.mark.parametrize("distribution", [ring(), grid(), uneven()], ids=["ring", "grid", "uneven"])
@pytest.mark.parametrize("spread", [0.0, 0.02, 1.0])
def test_against_counting_by_hand(distribution: GaussianMixture, spread: float) -> None:
    """Perfect samples, slightly and badly blurred ones."""
    samples = distribution.sample((400,))
    samples = samples + spread * torch.randn_like(samples)
    modes, quality, divergence, of_good = by_hand(samples, distribution)
    assert value(Modes(distribution), samples) == modes
    assert value(HighQuality(distribution), samples) == pytest.approx(quality, abs=1e-6)
    assert value(ReverseKL(distribution), samples) == pytest.approx(divergence, abs=1e-5)
    assert value(ReverseKLHighQuality(distribution), samples) == pytest.approx(of_good, abs=1e-5)


def test_nearest_mode_is_exact() -> None:
    """The matrix-product form of the distance would lose .001 beside 1,000."""
    modes = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]])
    samples = modes.flip(0) + torch.tensor([0.0078125, 0.0])  # 2^-7, exact beside 1,000
    # torch turns to that form from 26 samples on
    distance, index = nearest_mode(samples.repeat(50, 1), modes)
    assert index.tolist() == [1, 0] * 50
    assert_close(distance, torch.full((100,), 0.0078125), rtol=0, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.01, 0.1])
def test_high_quality_ends_at_three_sigma(sigma: float) -> None:
    distribution = ring(sigma=sigma)
    inside, outside = (distribution.modes[:1] * (1 + r * sigma) for r in (2.99, 3.01))
    assert value(HighQuality(distribution), inside) == 1.0
    assert value(HighQuality(distribution), outside) == 0.0
    assert value(Modes(distribution), inside) == 1.0
    assert value(Modes(distribution), outside) == 0.0


def test_three_sigma_are_those_of_the_nearest_mode() -> None:
    distribution = uneven()  # .1 around the first center, .2 around the second
    beside = distribution.modes[:2] + torch.tensor([0.0, 0.4])
    assert value(Modes(distribution), beside) == 1.0
    assert value(HighQuality(distribution), beside) == 0.5


@pytest.mark.parametrize("distribution", [ring(), grid()], ids=["ring", "grid"])
def test_high_quality_ceiling_of_a_perfect_sampler(distribution: GaussianMixture) -> None:
    """In two dimensions P(|x| < 3 sigma) = 1 - exp(-4.5) = .9889, within 4 standard errors."""
    n, ceiling = 100_000, 1 - math.exp(-4.5)
    share = value(HighQuality(distribution), distribution.sample((n,)))
    assert abs(share - ceiling) < 4 * math.sqrt(ceiling * (1 - ceiling) / n)


@pytest.mark.parametrize(("distribution", "modes"), [(ring(), 8), (grid(), 25)], ids=["ring", "grid"])
def test_a_perfect_sampler_finds_every_mode(distribution: GaussianMixture, modes: int) -> None:
    assert value(Modes(distribution), distribution.sample((2500,))) == modes


@pytest.mark.parametrize(("distribution", "modes"), [(ring(), 8), (grid(), 25), (uneven(), 4)])
def test_reverse_kl_floor_of_a_perfect_sampler(distribution: GaussianMixture, modes: int) -> None:
    """2 N KL is chi-squared with K - 1 degrees of freedom: mean K - 1, variance 2 (K - 1)."""
    n, repeats = 2500, 200
    values = [value(ReverseKL(distribution), distribution.sample((n,))) for _ in range(repeats)]
    floor, error = (modes - 1) / (2 * n), math.sqrt(2 * (modes - 1) / repeats) / (2 * n)
    assert abs(np.mean(values) - floor) < 4 * error


def near(weights: list[float]) -> GaussianMixture:
    """Two components in the plane, one standard deviation apart."""
    return GaussianMixture(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), 1.0, torch.tensor(weights))


@pytest.mark.parametrize("metric", [ReverseKL, ReverseKLHighQuality, ModesJensenShannon])
@pytest.mark.parametrize("distribution", [near([0.9, 0.1]), near([0.5, 0.5]), mixture([0, 1], [1, 1], [0.9, 0.1])])
def test_of_overlapping_modes_too_a_perfect_sampler_is_best(
    metric: type[Metric], distribution: GaussianMixture
) -> None:
    """Most samples of a weak component are nearest to its neighbor's mode."""
    assert value(metric(distribution), distribution.sample((50_000,)).reshape(50_000, -1)) < 2e-4
    shifted = distribution.sample((50_000,)).reshape(50_000, -1) + 0.5
    assert value(metric(distribution), shifted) > 0.01


def test_a_mode_of_weight_zero_and_many_dimensions_have_finite_values() -> None:
    light = GaussianMixture(9 * torch.eye(2), 1.0, torch.tensor([1.0, 0.0]))
    assert value(ReverseKL(light), light.modes[:1].repeat(9, 1)) == 0
    many = GaussianMixture(50 * torch.eye(128), 1.0)
    assert value(ReverseKLHighQuality(many), many.modes) == pytest.approx(0, abs=1e-6)
    assert value(ReverseKLHighQuality(many), many.modes + 9) == pytest.approx(math.log(128))


def test_the_true_shares_of_overlapping_modes() -> None:
    """P(x > 1/2) of .9 N(0, 1) + .1 N(1, 1), within four standard errors."""
    above = 0.9 * stats.norm.sf(0.5) + 0.1 * stats.norm.sf(-0.5)
    shares = true_shares(near([0.9, 0.1]))
    assert shares.sum().item() == pytest.approx(1, abs=1e-5)
    assert shares[:, 1].sum().item() == pytest.approx(above, abs=4 * math.sqrt(above * (1 - above) / 100_000))


def test_a_collapsed_sampler() -> None:
    """One mode of eight: KL = log 8, and nothing wrong with the quality."""
    samples = ring().modes[3].expand(500, 2)
    assert value(Modes(ring()), samples) == 1.0
    assert value(HighQuality(ring()), samples) == 1.0
    assert value(ReverseKL(ring()), samples) == pytest.approx(math.log(8), abs=1e-6)


@pytest.mark.parametrize("kept", [2, 4, 8])
def test_reverse_kl_of_dropped_modes(kept: int) -> None:
    samples = ring().modes[:kept].repeat(10, 1)
    assert value(Modes(ring()), samples) == kept
    assert value(ReverseKL(ring()), samples) == pytest.approx(math.log(8 / kept), abs=1e-6)


def test_reverse_kl_knows_the_weights() -> None:
    """Shares equal to the weights have no divergence; equal shares of unequal modes have."""
    distribution = uneven()
    right = distribution.modes.repeat_interleave(torch.tensor([1, 2, 3, 4]), 0)
    assert value(ReverseKL(distribution), right) == pytest.approx(0.0, abs=1e-6)
    expected = -sum(math.log(4 * w) for w in (0.1, 0.2, 0.3, 0.4)) / 4
    assert value(ReverseKL(distribution), distribution.modes) == pytest.approx(expected, abs=1e-6)


def test_a_sampler_between_the_modes() -> None:
    samples = 1e-3 * torch.randn(500, 2)
    assert value(Modes(ring()), samples) == 0.0
    assert value(HighQuality(ring()), samples) == 0.0
    assert value(ReverseKLHighQuality(ring()), samples) == pytest.approx(math.log(8))  # as of a single mode
    assert value(ReverseKLHighQuality(uneven()), samples + 50) == pytest.approx(math.log(10))  # the rarest alone


# ---------------------------------------------------------------------------------------------------------- width


def width_by_hand(samples: Tensor, distribution: GaussianMixture) -> float:
    """One sample at a time; the truncated Gaussian's variance by numerical integration over its radius."""
    modes, scales = distribution.modes.double().numpy(), distribution.scales.double().numpy()
    d = modes.shape[1]
    radius = np.linspace(0, 3, 200_001)
    density = radius ** (d - 1) * np.exp(-(radius**2) / 2)
    true = np.trapezoid(radius**2 * density, radius) / np.trapezoid(density, radius)
    squares: dict[int, list[float]] = {}
    for sample in samples.double().numpy():
        distances = np.sqrt(((modes - sample) ** 2).sum(1))
        k = int(distances.argmin())
        if distances[k] < 3 * scales[k]:
            squares.setdefault(k, []).append((distances[k] / scales[k]) ** 2)
    return float(np.mean([np.sqrt(np.mean(values) / true) for values in squares.values()])) if squares else 0.0


def five_dimensions() -> GaussianMixture:
    return GaussianMixture(10 * torch.eye(5), torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]))


@pytest.mark.parametrize("distribution", [ring(), uneven(), mixture([-3, 0, 3], [0.5, 0.4, 0.3]), five_dimensions()])
@pytest.mark.parametrize("spread", [0.0, 0.02, 1.0])
def test_width_against_counting_by_hand(distribution: GaussianMixture, spread: float) -> None:
    samples = distribution.sample((400,))
    samples = samples + spread * torch.randn_like(samples)
    assert value(Width(distribution), samples) == pytest.approx(width_by_hand(samples, distribution), abs=1e-5)


@pytest.mark.parametrize("distribution", [ring(), grid(), mixture([-3, 0, 3], [0.4] * 3), five_dimensions()])
def test_the_width_of_a_perfect_sampler_is_one(distribution: GaussianMixture) -> None:
    """The relative error of a standard deviation is at most 1/sqrt(2 n) for n samples; here 4 of them."""
    n = 20_000
    assert abs(value(Width(distribution), distribution.sample((n,))) - 1) < 4 / math.sqrt(2 * n)


@pytest.mark.parametrize("d", [1, 2, 3, 10, 50, 120, 1000])
def test_the_variance_within_three_deviations_is_that_of_the_chi_distribution(d: int) -> None:
    """E[r^2; r < 3] / (d P(r < 3)) by quadrature, with the density scaled so that nothing underflows."""
    r = np.linspace(0, 3, 200_001)[1:]
    log_density = (d - 1) * np.log(r / 3) - r**2 / 2
    density = np.exp(log_density)
    expected = (r**2 * density).sum() / density.sum() / d
    assert variance_within(d) == pytest.approx(expected, rel=1e-3 if d > 100 else 1e-4)


def test_the_width_is_finite_in_many_dimensions() -> None:
    modes = GaussianMixture(50 * torch.eye(120)[:3], torch.ones(3), torch.ones(3) / 3)
    near = modes.modes[torch.arange(300) % 3] + 0.1 * torch.randn(300, 120)
    assert value(Width(modes), near) == pytest.approx(0.1 / math.sqrt(variance_within(120)), rel=0.02)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_the_width_of_samples_that_are_too_close(share: float) -> None:
    """Of half the deviation nothing is cut off, so that it is share / sqrt(c), c = .9494 in the plane."""
    narrow = ring(sigma=0.01 * share).sample((20_000,))
    kept = (1 - 5.5 * math.exp(-4.5)) / (1 - math.exp(-4.5))
    assert value(Width(ring()), narrow) == pytest.approx(share / math.sqrt(kept), rel=0.02)


def test_samples_between_the_modes_do_not_count() -> None:
    samples = torch.cat([ring().sample((1000,)), 0.1 * torch.randn(200, 2)])
    assert value(Width(ring()), samples) == value(Width(ring()), samples[:1000])
    assert value(Width(ring()), samples[1000:]) == 0


def test_which_modes_are_apart() -> None:
    assert all(map(are_apart, (ring(), grid(), uneven(), mixture([-3, 0, 3], [0.5] * 3))))
    assert not any(map(are_apart, (ring(sigma=0.2), mixture([0, 1], [0.2, 0.1]), grid(spacing=0.1))))


# ------------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_add_up_their_batches(metric: type[Metric]) -> None:
    samples = ring().sample((300,)) + 0.01 * torch.randn(300, 2)
    assert value(metric(ring()), *samples.split(70)) == pytest.approx(value(metric(ring()), samples), rel=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_forget_when_reset(metric: type[Metric]) -> None:
    used = metric(ring())
    value(used, ring().sample((300,)))
    used.reset()
    samples = ring().modes[:2]
    assert value(used, samples) == value(metric(ring()), samples)


def test_metrics_of_a_collection_are_those_alone() -> None:
    """They share their counts there, which must not add up three times."""
    together = MetricCollection({metric.__name__: metric(uneven()) for metric in METRICS})
    batches = (uneven().sample((300,)) + 0.2 * torch.randn(300, 2)).split(100)
    for _ in range(2):
        for batch in batches:
            together.update(Batch(batch), Batch(batch))
        expected = {metric.__name__: value(metric(uneven()), *batches) for metric in METRICS}
        assert {name: v.item() for name, v in together.compute().items()} == expected
        together.reset()


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_leave_the_global_stream_alone(metric: type[Metric]) -> None:
    samples = ring().sample((50,))
    before = torch.get_rng_state()
    value(metric(ring()), samples)
    assert torch.equal(torch.get_rng_state(), before)
