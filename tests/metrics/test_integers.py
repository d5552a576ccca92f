"""Statistics of generated integers against counting with Python's Counter."""

from collections import Counter

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from gan_lightning.batch import Batch
from gan_lightning.data.bits import to_integers
from gan_lightning.metrics.integers import Distinct, EvenShare, TotalVariation

MAX_INT = 32
METRICS = [EvenShare, Distinct, TotalVariation]


def bits(values: list[int], width: int = 5) -> Tensor:
    return torch.tensor([[float(bit) for bit in f"{value:0{width}b}"] for value in values])


def value(kind: type[Metric], *batches: Tensor, max_int: int = MAX_INT) -> float:
    metric = kind(max_int, to_integers)
    for batch in batches:
        metric.update(Batch(batch), Batch(torch.zeros_like(batch)))
    return metric.compute().item()


def by_counting(values: list[int], max_int: int = MAX_INT) -> dict[type[Metric], float]:
    counts, n = Counter(values), len(values)
    true = {number: 2 / max_int if number % 2 == 0 else 0.0 for number in range(max_int)}
    return {
        EvenShare: sum(number % 2 == 0 for number in values) / n,
        Distinct: len({number for number in values if number % 2 == 0}),
        TotalVariation: sum(abs(counts[number] / n - share) for number, share in true.items()) / 2,
    }


@pytest.mark.parametrize("kind", METRICS)
@pytest.mark.parametrize("seed", range(3))
def test_against_a_counter(kind: type[Metric], seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    values = torch.multinomial(torch.rand(MAX_INT, generator=draw) ** 4, 300, True, generator=draw).tolist()
    assert value(kind, bits(values)) == pytest.approx(by_counting(values)[kind], abs=1e-6)


@pytest.mark.parametrize("kind", METRICS)
def test_batches_add_up(kind: type[Metric]) -> None:
    values = [0, 2, 2, 3, 30, 31, 7, 8]
    parts = bits(values[:3]), bits(values[3:4]), bits(values[4:])
    assert value(kind, *parts) == value(kind, bits(values))


@pytest.mark.parametrize(("kind", "perfect"), [(EvenShare, 1.0), (Distinct, 16.0), (TotalVariation, 0.0)])
def test_each_even_number_once_is_perfect(kind: type[Metric], perfect: float) -> None:
    assert value(kind, bits(list(range(0, MAX_INT, 2)))) == perfect


@pytest.mark.parametrize(("kind", "collapsed"), [(EvenShare, 1.0), (Distinct, 1.0), (TotalVariation, 15 / 16)])
def test_one_even_number_only(kind: type[Metric], collapsed: float) -> None:
    assert value(kind, bits([6] * 50)) == pytest.approx(collapsed, abs=1e-6)


@pytest.mark.parametrize(("kind", "odd"), [(EvenShare, 0.0), (Distinct, 0.0), (TotalVariation, 1.0)])
def test_odd_numbers_only(kind: type[Metric], odd: float) -> None:
    assert value(kind, bits(list(range(1, MAX_INT, 2)))) == pytest.approx(odd, abs=1e-6)


@pytest.mark.parametrize(("kind", "half"), [(EvenShare, 0.5), (Distinct, 16.0), (TotalVariation, 0.5)])
def test_all_numbers_alike(kind: type[Metric], half: float) -> None:
    assert value(kind, bits(list(range(MAX_INT)))) == pytest.approx(half, abs=1e-6)


def test_the_real_samples_do_not_count() -> None:
    metric = EvenShare(MAX_INT, to_integers)
    metric.update(Batch(bits([2, 4, 5, 6])), Batch(bits([1, 3, 5, 7])))
    assert metric.compute().item() == 0.75
