"""Means over seeds, and which settings are significantly best; imports only fast modules."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import mean, stdev

LEVEL = 0.05  # upper bound on the probability that any equal settings are found to differ


@dataclass(frozen=True)
class Sample:
    """The mean of n values and its standard error s / sqrt(n), with s^2 divided by n - 1; nan for one value."""

    n: int
    mean: float
    error: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Sample":
        n = len(values)
        return cls(n, mean(values), stdev(values) / math.sqrt(n) if n > 1 else math.nan)


def welch(a: Sample, b: Sample) -> float:
    """Two-sided p-value for equal means under unequal variances, with at least two values per sample (Welch 1947).

    t = (mean_a - mean_b) / e, e^2 = e_a^2 + e_b^2, with e^4 / (e_a^4 / (n_a - 1) + e_b^4 / (n_b - 1)) degrees of
    freedom, where e_a and e_b are the standard errors. If neither sample varies, the p-value is 1 for equal means and
    otherwise the smallest that a permutation test can reach, 2 / C(n_a + n_b, n_a), since counts may agree by chance.
    """
    difference, error = a.mean - b.mean, math.hypot(a.error, b.error)
    if error == 0:
        return 1.0 if difference == 0 else min(1.0, 2 / math.comb(a.n + b.n, a.n))
    freedom = 1 / ((a.error / error) ** 4 / (a.n - 1) + (b.error / error) ** 4 / (b.n - 1))
    from scipy.special import stdtr  # Student's distribution; slow to import

    return 2.0 * float(stdtr(freedom, -abs(difference / error)))


def holm(p_values: Sequence[float], level: float = LEVEL) -> list[bool]:
    """Which of m hypotheses are rejected, with a probability of at most ``level`` of rejecting a true one (Holm 1979).

    In ascending order, p_(k) must be below level / (m - k + 1), up to the first that is not.
    """
    rejected = [False] * len(p_values)
    for k, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[i] >= level / (len(p_values) - k):
            break
        rejected[i] = True
    return rejected


def best(samples: Sequence[Sample], larger: bool, complete: Sequence[bool]) -> list[bool]:
    """Mark the best mean and those that do not differ from it; mark nothing if no sample differs from the best.

    Which samples differ is decided by Welch's test with Holm's correction over all pairs, not only those with the
    best, because the same values also select the best. A sample that is no better than one that differs is not marked
    either, however large its error. A sample of one value, or one that is not ``complete``, cannot be compared: it is
    not marked, and if its mean is the best or equals it, nothing is.
    """
    able = [sample.n > 1 and whole for sample, whole in zip(samples, complete, strict=True)]
    pairs = [pair for pair in combinations(range(len(samples)), 2) if all(able[i] for i in pair)]
    rejected = holm([welch(samples[i], samples[j]) for i, j in pairs])
    means = [sample.mean if larger else -sample.mean for sample in samples]
    first = [i for i, mean in enumerate(means) if mean == max(means)]
    worse = [
        other
        for pair, differs in zip(pairs, rejected, strict=True)
        for one, other in (pair, pair[::-1])
        if differs and one in first and other not in first
    ]
    if not worse or not all(able[i] for i in first):
        return [False] * len(samples)
    bar = max(means[i] for i in worse)
    return [able[i] and means[i] > bar for i in range(len(samples))]
