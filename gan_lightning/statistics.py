"""Means over seeds, and which setting is best where the differences stand out of the errors; no import here is slow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import mean, stdev

LEVEL = 0.05  # the chance, at most, that settings which are all equal are told apart


@dataclass(frozen=True)
class Sample:
    """The mean of n values and its standard error s / sqrt(n), s^2 with n - 1 below; nan for one value."""

    n: int
    mean: float
    error: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Sample":
        n = len(values)
        return cls(n, mean(values), stdev(values) / math.sqrt(n) if n > 1 else math.nan)


def welch(a: Sample, b: Sample) -> float:
    """Two-sided p-value of equal means under unequal variances, for two or more values each (Welch 1947).

    t = (mean_a - mean_b) / e, e^2 = e_a^2 + e_b^2, with e^4 / (e_a^4 / (n_a - 1) + e_b^4 / (n_b - 1)) degrees of
    freedom, e_a and e_b the standard errors. Where neither sample varies, 1 for equal means; for others the least that
    a permutation test reaches, 2 over the ways of choosing n_a of n_a + n_b: a count may be the same by chance.
    """
    difference, error = a.mean - b.mean, math.hypot(a.error, b.error)
    if error == 0:
        return 1.0 if difference == 0 else min(1.0, 2 / math.comb(a.n + b.n, a.n))
    freedom = 1 / ((a.error / error) ** 4 / (a.n - 1) + (b.error / error) ** 4 / (b.n - 1))
    from scipy.special import stdtr  # Student's distribution; slow to import

    return 2.0 * float(stdtr(freedom, -abs(difference / error)))


def holm(p_values: Sequence[float], level: float = LEVEL) -> list[bool]:
    """Which of m hypotheses are rejected, with a chance of ``level`` that a true one is among them (Holm 1979).

    In ascending order p_(k) has to be below level / (m - k + 1), up to the first that is not.
    """
    rejected = [False] * len(p_values)
    for k, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[i] >= level / (len(p_values) - k):
            break
        rejected[i] = True
    return rejected


def best(samples: Sequence[Sample], larger: bool, complete: Sequence[bool]) -> list[bool]:
    """Mark the best mean and those that do not differ from it; nothing where no sample differs from the best.

    Welch's test with Holm's correction over all pairs tells which differ: the numbers that choose the best are those
    that it is tested by, so its own pairs are not all that count. What is no better than a sample that differs is not
    marked either, however wide its errors. A sample of one value, or one that is not ``complete``, cannot be told from
    any: it is not marked, and nothing is where its mean is the best.
    """
    able = [sample.n > 1 and whole for sample, whole in zip(samples, complete, strict=True)]
    pairs = [pair for pair in combinations(range(len(samples)), 2) if all(able[i] for i in pair)]
    rejected = holm([welch(samples[i], samples[j]) for i, j in pairs])
    means = [sample.mean if larger else -sample.mean for sample in samples]
    first = max(range(len(means)), key=means.__getitem__)
    different = [pair for pair, differs in zip(pairs, rejected, strict=True) if differs and first in pair]
    bar = max((means[i] for pair in different for i in pair if i != first), default=math.inf)
    return [able[i] and means[i] > bar for i in range(len(samples))]
