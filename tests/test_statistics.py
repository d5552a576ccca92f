"""The statistics of tables against scipy and numpy, and the marks of the best by cases and by their false alarms."""

import itertools
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from scipy import stats

from gan_lightning.statistics import Sample, best, holm, welch


def samples(*groups: list[float]) -> list[Sample]:
    return [Sample.of(group) for group in groups]


@pytest.mark.parametrize("seed", range(20))
def test_mean_and_error_are_numpys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(rng.normal(), 10.0 ** rng.integers(-6, 6), rng.integers(2, 30))
    sample = Sample.of(values.tolist())
    assert sample.n == len(values)
    assert sample.mean == pytest.approx(values.mean(), rel=1e-9)
    assert sample.error == pytest.approx(stats.sem(values), rel=1e-12)


def test_one_value_has_no_error() -> None:
    sample = Sample.of([0.25])
    assert (sample.n, sample.mean) == (1, 0.25)
    assert math.isnan(sample.error)


@pytest.mark.parametrize("seed", range(50))
def test_welch_is_scipys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.normal(rng.normal(), 10.0 ** rng.uniform(-2, 2), rng.integers(2, 20)) for _ in range(2))
    expected = stats.ttest_ind(a, b, equal_var=False).pvalue
    assert welch(*samples(a.tolist(), b.tolist())) == pytest.approx(expected, rel=1e-10)


def permutation(n: int, m: int) -> float:
    """The exact test's p-value of n values that are all above m others."""
    return float(stats.hypergeom.pmf(n, n + m, n, n)) * 2


def test_welch_without_variance() -> None:
    constant, other, varied = samples([8.0, 8.0, 8.0], [7.0, 7.0], [7.0, 8.0, 8.0, 6.0])
    assert welch(constant, other) == 2 / 10
    assert welch(*samples([8.0, 8.0], [7.0, 7.0])) == 2 / 6
    assert welch(*samples([8.0] * 10, [7.0] * 10)) == pytest.approx(permutation(10, 10), rel=1e-12)
    assert welch(constant, Sample.of([8.0, 8.0])) == 1
    expected = stats.ttest_1samp([7.0, 8.0, 8.0, 6.0], 8.0).pvalue  # the limit: the other's spread alone
    assert welch(constant, varied) == welch(varied, constant) == pytest.approx(expected, rel=1e-12)
    assert welch(*samples([0.1] * 3, [0.1] * 7)) == 1  # whose sums round differently


def test_holm_steps_down_until_one_stays() -> None:
    # 0.05/4, 0.05/3 and 0.05/2 are the thresholds of the first three
    assert holm([0.024, 0.012, 0.06, 0.0166]) == [True, True, False, True]
    assert holm([0.0126, 0.013, 0.02, 0.9]) == [False] * 4  # the first stays, so all do
    assert holm([0.001, 0.03, 0.029, 0.9]) == [True, False, False, False]
    assert holm([0.049]) == [True]
    assert holm([0.05]) == [False]
    assert holm([]) == []


GOOD, ALSO_GOOD, BAD = [1.0, 1.1, 0.9], [1.05, 1.15, 0.95], [9.0, 9.1, 8.9]
ALL = [True] * 4


@pytest.mark.parametrize(
    ("groups", "larger", "marks"),
    [
        ([GOOD, BAD], False, [True, False]),
        ([GOOD, BAD], True, [False, True]),
        ([BAD, GOOD, ALSO_GOOD], False, [False, True, True]),  # a tie
        ([GOOD, ALSO_GOOD], False, [False, False]),  # all tie
        ([[8.0] * 3, [8.0] * 3], True, [False, False]),
        ([[8.0] * 3, [8.0] * 3, [7.0] * 3], True, [False, False, False]),  # p = 0.1
        ([[8.0] * 6, [8.0] * 6, [7.0] * 6], True, [True, True, False]),  # p = 0.002
        ([[8.0] * 3, [7.0, 7.0, 8.0]], True, [False, False]),  # p = 0.42
        ([[1.0], [9.0]], False, [False, False]),  # single seeds
        ([GOOD, BAD, [5.0]], False, [True, False, False]),  # a single seed beside others
        ([GOOD, BAD, [0.5]], False, [False, False, False]),  # nobody knows whether it is the best
        ([[0.569, 0.523], [0.046, 0.076], [0.0029, 0.0028]], True, [True, False, False]),  # the last ties by its errors
        ([GOOD], False, [False]),
    ],
)
def test_marks(groups: list[list[float]], larger: bool, marks: list[bool]) -> None:
    assert best(samples(*groups), larger, ALL[: len(groups)]) == marks


def test_a_setting_that_lost_a_run_is_not_marked() -> None:
    groups = samples(GOOD, ALSO_GOOD, BAD)
    assert best(groups, False, [True, False, True]) == [True, False, False]
    assert best(groups, False, [False, True, True]) == [False, False, False]  # its mean is the best
    assert best(groups, False, [True, True, False]) == [False, False, False]  # what is left ties


def test_marks_do_not_depend_on_the_order_of_settings() -> None:
    """Where several means are the best, as counts often are, all of them count, and one that cannot be compared."""
    tied = {"alone": [8.0], "wide": [7.0, 9.0], "sure": [8.0] * 5, "worse": [3.0, 4.0, 5.0, 4.0, 3.0]}
    for names, expected in (
        (("alone", "sure", "worse"), set()),
        (("wide", "sure", "worse"), {"wide", "sure"}),
        (("sure", "worse"), {"sure"}),
    ):
        for order in itertools.permutations(names):
            marks = best(samples(*(tied[name] for name in order)), True, ALL[: len(order)])
            assert {name for name, mark in zip(order, marks, strict=True) if mark} == expected


def test_all_pairs_count() -> None:
    """p = 0.02 is enough for two settings and not for the best of three."""
    rng = np.random.default_rng(0)
    a = rng.normal(0, 1, 5)
    shifts = np.linspace(0, 5, 2001)
    shift = next(d for d in shifts if stats.ttest_ind(a, a + d, equal_var=False).pvalue < 0.02)
    low, high = a.tolist(), (a + shift).tolist()
    middle = (a + shift / 2).tolist()
    assert best(samples(low, high), False, ALL[:2]) == [True, False]
    assert best(samples(low, middle, high), False, ALL[:3]) == [False, False, False]


def alarms(settings: int, seeds: int, draw: Callable[..., np.ndarray]) -> float:
    """The p-value of 5 % of false alarms at most, by 400 tables of equal settings."""
    tables = 400
    count = sum(
        any(best([Sample.of(v) for v in draw(size=(settings, seeds)).tolist()], False, [True] * settings))
        for _ in range(tables)
    )
    return float(stats.binomtest(count, tables, 0.05, alternative="greater").pvalue)


@pytest.mark.parametrize(("settings", "seeds"), [(2, 3), (6, 3), (6, 10)])
def test_equal_settings_are_told_apart_in_one_table_of_twenty_at_most(settings: int, seeds: int) -> None:
    assert alarms(settings, seeds, np.random.default_rng(1).normal) > 0.01


@pytest.mark.parametrize(("settings", "seeds"), [(2, 2), (7, 3), (4, 5)])
def test_equal_settings_of_counts_are_told_apart_no_more_often(settings: int, seeds: int) -> None:
    """Seeds with seven or eight modes, which often agree by chance."""
    assert alarms(settings, seeds, partial(np.random.default_rng(1).integers, 7, 9)) > 0.01
