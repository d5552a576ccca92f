"""Even integers as bits, against Python's own binary numbers and a uniform draw's statistics."""

import pytest
import torch
from scipy import stats
from torch import Tensor

from gan_lightning.data.bits import EvenIntegers, to_integers
from gan_lightning.data.synthetic import sample_from

OPTIONS = {"rounds_per_epoch": 10, "validation_samples": 100}


def integers(samples: Tensor) -> list[int]:
    """Each row read by Python as a binary number."""
    return [int("".join(str(int(bit)) for bit in row), 2) for row in samples.tolist()]


@pytest.mark.parametrize("max_int", [4, 128, 256])
def test_samples_are_uniform_even_numbers(max_int: int) -> None:
    data = EvenIntegers(max_int, 4, **OPTIONS)
    drawn = integers(sample_from(data.distribution, 20_000, 3).x)
    counts = [drawn.count(even) for even in range(0, max_int, 2)]
    assert sum(counts) == 20_000  # no odd number, none out of range
    assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize(("max_int", "width"), [(4, 2), (128, 7), (256, 8), (1024, 10)])
def test_the_width_is_that_of_the_largest(max_int: int, width: int) -> None:
    data = EvenIntegers(max_int, 4, **OPTIONS)
    assert data.sample_shape == (width,)
    samples, classes, *_ = sample_from(data.distribution, 50, 0)
    assert classes is None
    assert (data.classes, data.class_names, data.value_range) == (0, (), None)
    assert samples.shape == (50, width)
    assert samples.dtype == torch.float32
    assert data.monitor == ("val/total_variation", "min")
    assert all(metric.counts.shape == (max_int,) for metric in data.metrics().values())


@pytest.mark.parametrize("max_int", [-8, 0, 1, 2, 3, 100, 127, 129])
def test_other_than_powers_of_two_are_refused(max_int: int) -> None:
    with pytest.raises(ValueError, match=rf"^data\.max_int is {max_int}: give a power of two, at least 4.*\.$"):
        EvenIntegers(max_int, 4, **OPTIONS)


@pytest.mark.parametrize("width", [1, 2, 7, 10])
def test_decoding_is_pythons_reading_of_bits(width: int) -> None:
    everything = [f"{value:0{width}b}" for value in range(2**width)]
    bits = torch.tensor([[float(bit) for bit in text] for text in everything])
    assert to_integers(bits).tolist() == [int(text, 2) for text in everything]


def test_a_bit_is_one_from_a_half_on() -> None:
    below = 0.5 - 2**-20
    samples = torch.tensor([[0.5, below, 0.9], [below, 0.5, 0.1], [-3.0, 7.0, 0.5]])
    assert to_integers(samples).tolist() == [0b101, 0b010, 0b011]
    assert EvenIntegers(8, 4, **OPTIONS).decode(samples).tolist() == [5, 2, 3]
