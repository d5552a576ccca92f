"""The modes of Stacked MNIST against counting by hand, by a classifier that the test knows."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, pad

from gan_lightning.batch import Batch
from gan_lightning.metrics.features import Features
from gan_lightning.metrics.stacked import StackedModes
from gan_lightning.pixels import from_bytes

RANGE = (-1.0, 1.0)
UNEVEN = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 4.0, 3.0, 2.0, 1.0]) / 30


class FirstPixel(nn.Module):
    """The digit is the first pixel of 28 x 28 that the classifier sees."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        assert images.shape[1:] == (1, 28, 28)
        return images.flatten(1).float(), one_hot(images[:, 0, 0, 0].long(), 10).float()


def pictures(digits: Tensor, size: int = 28) -> Tensor:
    """Triples (N, 3) as images (N, 3, size, size) with other numbers around the first pixel and in the border."""
    images = torch.full((len(digits), 3, 28, 28), 7, dtype=torch.uint8)
    images[:, :, 0, 0] = digits
    return from_bytes(pad(images, [(size - 28) // 2] * 4, value=9), RANGE)


def measured(*batches: Tensor, size: int = 28, shares: Tensor = UNEVEN) -> dict[str, float]:
    metric = StackedModes(Features("first pixel", FirstPixel()), RANGE, shares)
    for digits in batches:
        images = pictures(digits, size)
        metric.update(Batch(images), Batch(torch.zeros_like(images)))
    return {name: value.item() for name, value in metric.compute().items()}


@pytest.mark.parametrize("size", [28, 32])
def test_against_counting_by_hand(size: int) -> None:
    digits = torch.multinomial(UNEVEN, 3 * 500, replacement=True).view(500, 3)
    digits[:100] = torch.tensor([3, 1, 4])
    counts: dict[tuple[int, ...], int] = {}
    for triple in map(tuple, digits.tolist()):
        counts[triple] = counts.get(triple, 0) + 1
    shares = UNEVEN.double().tolist()
    uniform = sum(n / 500 * math.log(n / 500 * 1000) for n in counts.values())
    exact = sum(n / 500 * math.log(n / 500 / math.prod(shares[d] for d in t)) for t, n in counts.items())
    found = measured(digits, size=size)
    assert found == pytest.approx({"modes": len(counts), "kl": uniform, "kl_exact": exact}, abs=1e-5)
    assert measured(*digits.split(130), size=size) == found


def test_the_order_of_the_channels_counts() -> None:
    permutations = torch.tensor(list(itertools.permutations((1, 2, 3))))
    assert measured(permutations)["modes"] == 6
    assert measured(permutations)["kl"] == pytest.approx(math.log(1000 / 6), abs=1e-5)


def test_every_triple_once_and_a_single_one() -> None:
    every = torch.cartesian_prod(*[torch.arange(10)] * 3)
    even = torch.full((10,), 0.1)
    assert measured(every, shares=even) == pytest.approx({"modes": 1000, "kl": 0, "kl_exact": 0}, abs=1e-5)
    collapsed = measured(torch.tensor([[5, 0, 9]]).expand(50, 3))
    expected = {"modes": 1, "kl": math.log(1000), "kl_exact": -math.log(5 / 30 / 30 / 30)}
    assert collapsed == pytest.approx(expected, abs=1e-5)


def test_the_floor_of_true_triples() -> None:
    """2 n KL is chi-squared with 999 degrees of freedom; here over 20 samples of the counts, within 4 errors."""
    n, repeats = 25_600, 20
    p = torch.einsum("a,b,c->abc", UNEVEN, UNEVEN, UNEVEN).flatten().double().numpy()
    p /= p.sum()
    metric = StackedModes(Features("none", FirstPixel()), RANGE, UNEVEN)
    values = []
    for counts in np.random.default_rng(0).multinomial(n, p, size=repeats):
        metric.counts = torch.from_numpy(counts)
        metric._update_count = 1
        values.append(metric.compute()["kl_exact"].item())
        metric.reset()
    # rare triples make it a little larger than the limit of many samples
    assert np.mean(values) == pytest.approx(999 / (2 * n), abs=4 * math.sqrt(2 * 999 / repeats) / (2 * n) + 1e-3)
