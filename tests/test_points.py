"""Metrics and pictures of points beyond a plane: closed forms, and what they look like."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from gan_lightning.batch import Batch
from gan_lightning.data.synthetic import Synthetic
from gan_lightning.metrics.points import comparisons, sliced_wasserstein, two_sample_accuracy
from gan_lightning.pictures import marginals


def normal(n: int, dimensions: int, seed: int = 0) -> Tensor:
    return torch.randn(n, dimensions, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dimensions", [1, 3, 10])
def test_sliced_wasserstein_of_a_translation_is_its_length_over_the_root_of_the_dimension(dimensions: int) -> None:
    x, shift = normal(200, dimensions), 2 * normal(1, dimensions, seed=1)
    expected = shift.norm().item() / math.sqrt(dimensions)
    assert sliced_wasserstein(x, x + shift).item() == pytest.approx(expected, rel=0.08 * (dimensions > 1) + 1e-6)


def test_sliced_wasserstein_of_a_line_is_that_of_sorted_values() -> None:
    x, y = normal(50, 1), normal(50, 1, seed=1) ** 3
    expected = (x.sort(0).values - y.sort(0).values).square().mean().sqrt()
    assert sliced_wasserstein(x, y).item() == pytest.approx(expected.item(), rel=1e-5)
    assert sliced_wasserstein(x, x.flip(0)) == 0


@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0, 100.0])
def test_the_accuracy_is_about_the_best_that_there_is(shift: float) -> None:
    """Phi(|m| / 2) of N(0, I) and N(m, I); nearest neighbors lose a little of it."""
    x, y = normal(1000, 3), normal(1000, 3, seed=1)
    best = Normal(0.0, 1.0).cdf(torch.tensor(shift / 2)).item()
    accuracy = two_sample_accuracy(x, y + torch.tensor([0.0, shift, 0.0])).item()
    assert best - 0.05 < accuracy < best + 3 * math.sqrt(0.25 / 1000) * (shift < 100) + 1e-9


def test_the_accuracy_of_copies_is_no_more_than_chance() -> None:
    x = normal(500, 3)
    assert two_sample_accuracy(x, x).item() < 0.55


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ((2,), {"energy"}),
        ((1, 8, 8), {"energy"}),
        ((3,), {"energy", "sliced_wasserstein", "c2st"}),
    ],
)
def test_points_beyond_a_plane_have_more_metrics(shape: tuple[int, ...], names: set[str]) -> None:
    found = comparisons(shape)
    assert set(found) == names
    x = normal(40, math.prod(shape)).view(40, *shape)
    for name, metric in found.items():
        for part in x.split(25):
            metric.update(Batch(part), Batch(part.flip(0)))
        assert metric.compute().item() == pytest.approx(0, abs=1e-5) if name != "c2st" else metric.compute() < 0.8


def test_a_distribution_beyond_a_plane_is_compared_and_drawn_by_its_marginals() -> None:
    before = torch.get_rng_state()
    data = Synthetic(MultivariateNormal(torch.zeros(3), torch.eye(3)), 4, 1, 4)
    assert {"sliced_wasserstein", "c2st", "energy"} <= set(data.metrics())
    assert data.picture(Batch(normal(50, 3))).shape[0] == 3
    assert torch.equal(torch.get_rng_state(), before)


def test_marginals_show_each_pair_and_each_coordinate() -> None:
    samples, real = normal(50, 3), normal(60, 3, seed=1)
    figure = marginals(samples, real, ["a", "b", "c"])
    assert len(figure.axes) == 6
    assert [axes.get_xlabel() for axes in figure.axes[-3:]] == ["a", "b", "c"]
    below = figure.axes[1]  # the second row's first cell
    assert below.get_ylabel() == "b"
    drawn = [torch.tensor(points.get_offsets()).float() for points in below.collections]
    assert torch.equal(drawn[0], real[:, [0, 1]])
    assert torch.equal(drawn[1], samples[:, [0, 1]])
    assert len(marginals(normal(20, 9)).axes) == 21
