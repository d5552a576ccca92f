"""Means over seeds, and which setting is best where the differences stand out of the errors; no import here is slow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import mean, stdev

LEVEL = 0.05  # the chance, at most, that settings which are all equal are told apart
DEPTH = 100  # of the continued fraction, whose terms fall off with sqrt(freedom)


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
    return student_t(difference / error, freedom)


def student_t(t: float, freedom: float) -> float:
    """P(|T| > |t|) = I_x(freedom/2, 1/2), x = freedom / (freedom + t^2), of Student's T (DLMF 8.17)."""
    return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


def incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b), the regularized incomplete beta function, by its continued fraction (DLMF 8.17.22)."""
    if x in (0.0, 1.0):
        return x
    if x > (a + 1) / (a + b + 2):  # there the complement's fraction is the one that converges fast
        return 1 - incomplete_beta(b, a, 1 - x)
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    return math.exp(a * math.log(x) + b * math.log1p(-x) - log_beta) / (a * _beta_fraction(a, b, x))


def _beta_fraction(a: float, b: float, x: float) -> float:
    """1 + d_1 / (1 + d_2 / (1 + ...)) with the d of DLMF 8.17.23, from its far end."""
    value = 1.0
    for m in range(DEPTH, 0, -1):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        value = 1 + even / (1 + odd / value)
    return 1 - (a + b) * x / ((a + 1) * value)


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
