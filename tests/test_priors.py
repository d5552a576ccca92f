"""The priors' shapes, ranges, moments and random streams."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from gan_lightning.priors import Bernoulli, Normal, Prior, Uniform

PRIORS = [Normal, Uniform, Bernoulli]
N = 20_000
KS_BOUND = 1.63 / math.sqrt(N)  # 1 %


def draw(prior: Prior, n: int = N, seed: int = 0) -> Tensor:
    return prior.sample(n, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize(("n", "size"), [(1, 1), (7, 3), (256, 64)])
def test_shape(prior: type[Prior], n: int, size: int) -> None:
    latents = draw(prior(size), n)
    assert latents.shape == (n, size)
    assert latents.dtype == torch.float32


def test_normal_follows_its_cdf() -> None:
    for column in draw(Normal(2)).T:
        assert stats.kstest(column.numpy(), "norm").statistic < KS_BOUND


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0), (2.0, 5.0)])
def test_uniform_follows_its_cdf(low: float, high: float) -> None:
    latents = draw(Uniform(2, low, high))
    assert low <= latents.min() < low + 0.01 * (high - low)
    assert high - 0.01 * (high - low) < latents.max() <= high
    for column in latents.T:
        assert stats.kstest(column.numpy(), stats.uniform(low, high - low).cdf).statistic < KS_BOUND


def test_uniform_has_unit_variance_unless_told_otherwise() -> None:
    """4 standard errors: of the mean 1/sqrt(n), of the variance sqrt((9/5 - 1)/n)."""
    latents = draw(Uniform(1)).double()
    assert latents.abs().max() <= math.sqrt(3) + 1e-6
    assert abs(latents.mean()) < 4 / math.sqrt(N)
    assert abs(latents.var() - 1) < 4 * math.sqrt(0.8 / N)


def test_bernoulli_tosses_a_fair_coin() -> None:
    latents = draw(Bernoulli(2))
    assert set(latents.unique().tolist()) == {0.0, 1.0}
    assert (latents.mean(0) - 0.5).abs().max() < 4 * 0.5 / math.sqrt(N)


@pytest.mark.parametrize("prior", PRIORS)
def test_dimensions_are_independent(prior: type[Prior]) -> None:
    """A correlation of independent columns has a standard error of 1/sqrt(n)."""
    correlation = torch.corrcoef(draw(prior(3)).T) - torch.eye(3)
    assert correlation.abs().max() < 4 / math.sqrt(N)


@pytest.mark.parametrize("prior", PRIORS)
def test_the_generator_decides_everything(prior: type[Prior]) -> None:
    torch.manual_seed(1)
    first = draw(prior(8), 50, seed=3)
    torch.manual_seed(2)
    assert torch.equal(first, draw(prior(8), 50, seed=3))
    assert not torch.equal(first, draw(prior(8), 50, seed=4))


@pytest.mark.parametrize("prior", PRIORS)
def test_the_generator_moves_on(prior: type[Prior]) -> None:
    generator = torch.Generator().manual_seed(0)
    assert not torch.equal(prior(8).sample(50, generator), prior(8).sample(50, generator))


@pytest.mark.parametrize("prior", PRIORS)
def test_the_global_stream_is_untouched(prior: type[Prior]) -> None:
    before = torch.get_rng_state()
    draw(prior(8), 50)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("prior", PRIORS)
def test_an_empty_latent_is_refused(prior: type[Prior]) -> None:
    with pytest.raises(ValueError, match=r"model\.latent_size is 0"):
        prior(0)


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0)])
def test_crossed_bounds_are_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match=rf"prior\.low is {low} and prior\.high is {high}"):
        Uniform(1, low, high)


def test_a_prior_without_samples_says_so() -> None:
    with pytest.raises(TypeError, match="Prior must define how to sample"):
        draw(Prior(1), 1)
