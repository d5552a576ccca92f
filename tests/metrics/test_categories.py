"""The match of categories and classes, against scipy's assignment."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.functional import one_hot

from gan_lightning.batch import Batch
from gan_lightning.metrics.categories import CategoryMatch, best_match
from gan_lightning.metrics.features import Features


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (10, 10), (3, 7), (7, 3), (30, 30)])
def test_the_assignment_is_the_best(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    for most in (2, 5, 1000):  # with many ties, and few
        counts = random.integers(0, most, shape)
        rows, columns = linear_sum_assignment(counts, maximize=True)
        assert best_match(counts.tolist()) == counts[rows, columns].sum()


class ByBrightness(nn.Module):
    """The class is the first pixel."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images.flatten(1).float(), one_hot(images[:, 0, 0, 0].long(), 3).float()


def test_the_share_is_of_all_samples_of_a_validation() -> None:
    metric = CategoryMatch(Features("brightness", ByBrightness(), 1.0), (0.0, 1.0), categories=3, classes=3)
    categories = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    classes = torch.tensor([2, 2, 1, 0, 0, 1, 1, 0])  # 0 is 2, 1 is 0, 2 is 1: six of eight
    images = (classes / 255).view(-1, 1, 1, 1)
    z = torch.cat([one_hot(categories, 3), torch.full((8, 2), 9)], 1).float()
    for part in (slice(0, 5), slice(5, 8)):
        metric.update(Batch(images[part], None, z[part]), Batch(images[part]))
    assert metric.compute() == 6 / 8
