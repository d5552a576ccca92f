"""Truncation against scipy's truncated normal, arcs against rotations."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest, truncnorm

from gan_lightning.errors import UsageError
from gan_lightning.latents import between, closed_walk, slerp, truncated
from gan_lightning.priors import Bernoulli, Normal, Uniform


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("threshold", [0.05, 0.5, 1.0, 3.0])
def test_truncated_latents_are_normal_between_the_thresholds(threshold: float) -> None:
    latents = truncated(Normal(10), 5000, threshold, seeded())
    assert latents.shape == (5000, 10)
    assert latents.dtype == torch.float32
    assert latents.abs().max() <= threshold
    assert kstest(latents.flatten().numpy(), truncnorm(-threshold, threshold).cdf).pvalue > 0.01


def test_only_coordinates_beyond_the_threshold_are_drawn_anew() -> None:
    plain = Normal(10).sample(500, seeded(3))
    latents = truncated(Normal(10), 500, 1.0, seeded(3))
    inside = plain.abs() <= 1.0
    assert torch.equal(latents[inside], plain[inside])
    redrawn = latents[~inside]
    assert kstest(redrawn.numpy(), truncnorm(-1.0, 1.0).cdf).pvalue > 0.01
    assert len(redrawn.unique()) > 0.99 * len(redrawn)


@pytest.mark.parametrize("prior", [Uniform(4), Bernoulli(4)])
def test_truncation_of_another_prior_is_refused(prior: Uniform | Bernoulli) -> None:
    with pytest.raises(UsageError, match=rf"truncation=0.5 is for a normal prior.*{type(prior).__name__}"):
        truncated(prior, 5, 0.5, seeded())


@pytest.mark.parametrize("angle", [1e-4, 0.3, math.pi / 2, 3.0])
def test_an_arc_is_a_rotation_by_equal_angles(angle: float) -> None:
    """In a random plane of R^7 the latent at t is the first, turned by t times the angle."""
    first, second = np.linalg.qr(np.random.default_rng(0).normal(size=(7, 2)))[0].T
    t = np.linspace(0, 1, 9)[:, None]
    expected = 5.0 * (np.cos(t * angle) * first + np.sin(t * angle) * second)
    arc = slerp(torch.tensor(expected[0]), torch.tensor(expected[-1]), torch.tensor(t))
    np.testing.assert_allclose(arc.numpy(), expected, atol=1e-10)


def test_arcs_between_unequal_lengths() -> None:
    """White's formula keeps the angle of the directions and mixes the vectors themselves."""
    a, b = torch.tensor([2.0, 0.0]).double(), torch.tensor([0.0, 6.0]).double()
    half = math.sin(math.pi / 4)  # sin(w / 2) / sin(w) at w = pi / 2
    middle = slerp(a, b, torch.tensor([0.5]).double())
    assert middle.tolist() == pytest.approx([2.0 * half, 6.0 * half], abs=1e-12)


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0])
def test_on_one_line_there_is_no_arc(factor: float) -> None:
    a = torch.tensor([1.0, -2.0, 0.5]).double()
    t = torch.linspace(0, 1, 5).double()[:, None]
    torch.testing.assert_close(slerp(a, factor * a, t), (1 - t) * a + t * factor * a)


def test_normal_latents_stay_on_their_sphere_and_others_on_a_line() -> None:
    a, b = (torch.nn.functional.normalize(torch.randn(3, 6, generator=seeded(i)), dim=1) for i in (1, 2))
    arcs, lines = between(Normal(6), a, b, 11), between(Uniform(6), a, b, 11)
    for ways in (arcs, lines):
        assert ways.shape == (3, 11, 6)
        assert ways.dtype == torch.float32
        torch.testing.assert_close(ways[:, 0], a)
        torch.testing.assert_close(ways[:, -1], b)
    torch.testing.assert_close(arcs.norm(dim=2), torch.ones(3, 11))
    assert (lines[:, 1:-1].norm(dim=2) < 0.999).all()
    np.testing.assert_allclose(lines.numpy(), np.linspace(a.numpy(), b.numpy(), 11, axis=1), atol=1e-6)


def test_a_walk_is_closed_and_visits_each_latent_once() -> None:
    corners = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    walk = closed_walk(Normal(2), corners, 7)
    assert walk.shape == (4, 6, 2)
    torch.testing.assert_close(walk[:, 0], corners)
    angles = torch.arange(24) * (2 * math.pi / 24)  # once around the circle, in equal steps
    torch.testing.assert_close(walk.flatten(0, 1), torch.stack((angles.cos(), angles.sin()), 1), atol=1e-6, rtol=0)
