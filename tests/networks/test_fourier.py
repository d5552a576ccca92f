"""Fourier features of a discriminator against their equation."""

import math

import torch
from torch.testing import assert_close

from gan_lightning.networks.fourier import FEATURES, FourierFeatures
from gan_lightning.networks.mlp import Discriminator


def test_the_features_are_waves_of_the_fixed_frequencies() -> None:
    torch.manual_seed(0)
    features = FourierFeatures(3, scale=2.0).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    found = features(x)
    assert found.shape == (5, features.size) == (5, 3 + 2 * FEATURES)
    assert_close(found[:, :3], x, rtol=0, atol=0)
    for i in range(5):
        for k in range(FEATURES):
            phase = 4 * math.pi * sum(features.frequencies[k, j].item() * x[i, j].item() for j in range(3))
            assert_close(found[i, 3 + k].item(), math.sin(phase), rtol=0, atol=1e-12)
            assert_close(found[i, 3 + FEATURES + k].item(), math.cos(phase), rtol=0, atol=1e-12)
    assert not list(features.parameters())
    assert set(features.state_dict()) == {"frequencies"}


def test_the_frequencies_are_normal() -> None:
    torch.manual_seed(0)
    drawn = FourierFeatures(100, scale=2.5).frequencies  # 6,400 numbers
    assert_close(drawn.std().item(), 1.0, rtol=0.03, atol=0)
    assert_close(drawn.mean().item(), 0.0, rtol=0, atol=0.04)


def test_half_precision_does_not_reach_the_phases() -> None:
    torch.manual_seed(0)
    features, x = FourierFeatures(2, scale=2.5), 4 * torch.randn(50, 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = features(x)
    assert_close(found, features(x), rtol=0, atol=0)


def test_weights_of_another_scale_keep_the_chosen_one() -> None:
    """As start_from loads them."""
    one, other = FourierFeatures(2, scale=1.0), FourierFeatures(2, scale=3.0)
    other.load_state_dict(one.state_dict())
    x = torch.rand(4, 2)
    assert_close(other(x)[:, 2:], one(3 * x)[:, 2:], rtol=0, atol=1e-5)


def test_a_discriminator_judges_the_features_beside_a_joined_class() -> None:
    torch.manual_seed(0)
    d = Discriminator((2,), [8], fourier_scale=1.0, classes=3, conditional=True, conditioning="joined")
    x, y = torch.randn(4, 2), torch.arange(4) % 3
    joined = torch.cat([d.features(x), d.condition.weight[y]], 1)
    assert_close(d(x, y), d.layers(joined).squeeze(1), rtol=0, atol=1e-6)
    plain = Discriminator((2,), [8])
    assert plain.features is None
    assert plain.layers[0].in_features == 2
