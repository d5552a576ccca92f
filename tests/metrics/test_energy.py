"""The energy distance against all pairs by hand, its closed form for normals, and what two true samples give."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from gan_lightning.batch import Batch
from gan_lightning.distributions import grid, ring
from gan_lightning.metrics import energy
from gan_lightning.metrics.energy import Energy, energy_distance
from gan_lightning.metrics.stored import in_order


def by_hand(x: Tensor, y: Tensor) -> float:
    """All pairs, in double precision."""
    a, b = (samples.flatten(1).double().numpy() for samples in (x, y))

    def mean(p: np.ndarray, q: np.ndarray) -> float:
        return float(np.sqrt(((p[:, None] - q[None]) ** 2).sum(2)).mean())

    return 2 * mean(a, b) - mean(a, a) - mean(b, b)


@pytest.mark.parametrize("shape", [(1,), (2,), (5,), (3, 2, 2)])
def test_against_all_pairs(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "BLOCK", 17)
    x, y = torch.randn(50, *shape), 2 * torch.randn(70, *shape) + 1
    assert energy_distance(x, y).item() == pytest.approx(by_hand(x, y), abs=1e-6)


@pytest.mark.parametrize("n", [1, 7, 12])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_what_processes_have_seen_is_joined_in_the_order_of_one(n: int, ranks: int) -> None:
    """Which metrics that split or cut the samples depend on."""
    x = torch.randn(n, 2, 3)
    assert torch.equal(in_order([x[rank::ranks] for rank in range(ranks)]), x)


@pytest.mark.parametrize("n", [1, 7, 12])
def test_several_batches_of_several_processes_are_gathered_at_once(n: int) -> None:
    x, y = torch.randn(2, n, 2)
    metrics = [Energy() for _ in range(2)]
    for rank, metric in enumerate(metrics):
        for part in zip(x[rank::2].split(3), y[rank::2].split(3), strict=True):
            metric.update(*map(Batch, part))
    gathered = iter([[x[0::2], x[1::2]], [y[0::2], y[1::2]]])

    def gather(own: Tensor, group: Any) -> list[Tensor]:
        parts = next(gathered)
        assert torch.equal(own, parts[1])
        return parts

    metrics[1]._sync_dist(gather)
    assert all(map(torch.equal, metrics[1].both(), (x, y)))


def test_on_a_line_with_ties() -> None:
    x, y = torch.randint(0, 4, (50, 1)).float(), torch.randint(1, 5, (30, 1)).float()
    assert energy_distance(x, y).item() == pytest.approx(by_hand(x, y), abs=1e-12)


def test_of_normals_that_are_shifted() -> None:
    """On a line E|X - Y| is the mean of a folded normal; 4 standard errors of the mean of |x - y|."""
    n, shift = 20_000, 1.0
    folded = 2 / math.sqrt(math.pi) * math.exp(-(shift**2) / 4) + shift * math.erf(shift / 2)
    expected = 2 * folded - 2 * 2 / math.sqrt(math.pi)
    assert abs(energy_distance(torch.randn(n, 1), torch.randn(n, 1) + shift).item() - expected) < 8 / math.sqrt(n)


@pytest.mark.parametrize("distribution", [ring(), grid()], ids=["ring", "grid"])
def test_two_true_samples(distribution: torch.distributions.Distribution) -> None:
    """On average E|x - x'| (1/N + 1/M), within 4 standard errors of the mean of 40."""
    n, m, repeats = 100, 200, 40
    values = torch.stack(
        [energy_distance(distribution.sample((n,)), distribution.sample((m,))) for _ in range(repeats)]
    )
    x = distribution.sample((2000,))
    expected = torch.pdist(x).mean() * (1 / n + 1 / m)
    assert values.min() >= 0
    assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(repeats)


def test_a_sample_and_itself() -> None:
    x = ring().sample((300,))
    assert energy_distance(x, x[torch.randperm(300)]).abs() < 1e-7


def test_the_metric_gathers_its_batches_and_leaves_the_global_stream_alone() -> None:
    x, y = ring().sample((300,)), ring().sample((300,))
    before = torch.get_rng_state()
    metric = Energy()
    for a, b in zip(x.split(70), y.split(70), strict=True):
        metric.update(Batch(a), Batch(b))
    assert_close(metric.compute(), energy_distance(x, y).float())
    metric.reset()
    metric.update(Batch(x[:5]), Batch(y[:5]))
    assert_close(metric.compute(), energy_distance(x[:5], y[:5]).float())
    assert torch.equal(torch.get_rng_state(), before)
