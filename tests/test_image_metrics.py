"""Scores of images against closed forms, loops and formulas written out; and what they leave alone."""

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torchmetrics import MetricCollection

from gan_lightning.batch import Batch
from gan_lightning.metrics.features import Features
from gan_lightning.metrics.images import (
    ImageMetrics,
    class_divergence,
    frechet_distance,
    inception_score,
    intra_fid,
    kernel_distance,
    neighborhoods,
)
from gan_lightning.pixels import from_bytes, to_bytes

RANDOM = np.random.default_rng(0)


def points(n: int, d: int, shift: float = 0.0) -> Tensor:
    return torch.from_numpy(RANDOM.normal(shift, 1.0, (n, d)))


# ------------------------------------------------------------------------------------------------------- distances


def with_moments(mean: np.ndarray, covariance: np.ndarray, n: int = 200) -> Tensor:
    """n points whose sample mean and covariance are these to the last bits."""
    x = RANDOM.normal(size=(n, len(mean)))
    x -= x.mean(0)
    whitened = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return torch.from_numpy(mean + whitened @ np.linalg.cholesky(covariance).T)


def test_frechet_distance_of_diagonal_gaussians() -> None:
    """|m - n|^2 + sum (s_i - t_i)^2 for standard deviations s and t."""
    m, n, s, t = (np.array(v) for v in ([0.0, 1.0, -2.0], [0.5, 1.0, 1.0], [1.0, 2.0, 0.5], [3.0, 0.1, 0.5]))
    distance = frechet_distance(with_moments(m, np.diag(s**2)), with_moments(n, np.diag(t**2)))
    assert distance.item() == pytest.approx(((m - n) ** 2).sum() + ((s - t) ** 2).sum(), rel=1e-10)


def test_frechet_distance_is_scipys() -> None:
    real, generated = points(300, 16), points(200, 16, 0.3) @ points(16, 16)
    a, b = np.cov(real.T), np.cov(generated.T)
    root = scipy.linalg.sqrtm(a @ b).real
    expected = ((real.mean(0) - generated.mean(0)) ** 2).sum().item() + np.trace(a + b - 2 * root)
    assert frechet_distance(real, generated).item() == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(real, real).item() == pytest.approx(0, abs=1e-6)


def kernel_by_loops(real: np.ndarray, generated: np.ndarray) -> float:
    """The unbiased squared MMD of n points each, pair by pair."""
    n, d = real.shape

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return (x @ y / d + 1) ** 3

    same = sum(k(s[i], s[j]) for s in (real, generated) for i in range(n) for j in range(n) if i != j)
    return same / (n * (n - 1)) - 2 * sum(k(x, y) for x in real for y in generated) / n**2


def test_kernel_distance_of_one_subset_is_the_formula() -> None:
    real, generated = points(30, 5), points(30, 5, 0.5)
    expected = kernel_by_loops(real.numpy(), generated.numpy())
    assert kernel_distance(real, generated).item() == pytest.approx(expected, rel=1e-10)


def test_kernel_distance_of_subsets_is_near_that_of_all() -> None:
    """A mean over 100 subsets of 1,000 of 1,500: unbiased, so within a few per cent of the whole."""
    real, generated = points(1500, 4), points(1500, 4, 0.5)
    k = [((a @ b.T / 4 + 1) ** 3) for a, b in ((real, real), (generated, generated), (real, generated))]
    n = 1500
    within = sum((m.sum() - m.diagonal().sum()) / (n * (n - 1)) for m in k[:2])
    whole = (within - 2 * k[2].mean()).item()
    assert kernel_distance(real, generated).item() == pytest.approx(whole, rel=0.05)
    assert kernel_distance(real, generated).item() != pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize(("score", "arguments"), [(kernel_distance, 2), (inception_score, 1)])
def test_random_subsets_are_seeded_and_leave_the_global_stream_alone(score: object, arguments: int) -> None:
    features = [points(1200, 3) for _ in range(arguments)]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = score(*features)  # type: ignore[operator]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(score(*features), first)  # type: ignore[operator]


def test_the_distance_within_a_class_needs_two_samples_of_it_on_both_sides() -> None:
    real, generated = torch.randn(19, 3, generator=torch.Generator().manual_seed(0), dtype=torch.double).split([10, 9])
    classes = torch.tensor([0] * 5 + [1] + [2] * 4), torch.tensor([0] * 5 + [1] * 3 + [2])
    found = intra_fid((real, classes[0]), (generated, classes[1]))
    assert list(found) == [0]
    assert_close(found[0], frechet_distance(real[:5], generated[:5]))


# -------------------------------------------------------------------------------------------------- Inception Score


def test_inception_score_of_sure_and_of_undecided_classifiers() -> None:
    """K for certainty over K equal classes, in every part; 1 where every image has the same classes."""
    sure = 200.0 * torch.eye(2, dtype=torch.double).repeat(10_000, 1)
    assert inception_score(sure).item() == pytest.approx(2, rel=2e-3)  # parts of 2,000 in random order
    same = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.double).expand(40, 3)
    assert inception_score(same).item() == pytest.approx(1, abs=1e-12)


def test_inception_score_is_a_mean_over_ten_parts() -> None:
    """Of 2 images each, which have the score 2 if their classes differ, and else 1; together they have 10."""
    sure = 200.0 * torch.eye(10, dtype=torch.double).repeat(2, 1)
    score = inception_score(sure).item()
    assert 1 < score < 2 + 1e-9
    assert 10 * score == pytest.approx(round(10 * score), abs=1e-9)


def test_inception_score_by_hand() -> None:
    """Two images are one part: exp of the mean KL from their mean."""
    p = np.array([[0.9, 0.1], [0.2, 0.8]])
    expected = math.exp((p * np.log(p / p.mean(0))).sum(1).mean())
    assert inception_score(torch.from_numpy(np.log(p))).item() == pytest.approx(expected, rel=1e-12)


# -------------------------------------------------------------------------------------------------- neighborhoods


def by_loops(real: np.ndarray, generated: np.ndarray) -> dict[str, float]:
    """Each definition sample by sample, distances by numpy."""

    def radius(x: np.ndarray, i: int, k: int) -> float:
        return sorted(np.linalg.norm(x[i] - y) for j, y in enumerate(x) if j != i)[k - 1]

    def share_inside(samples: np.ndarray, of: np.ndarray) -> float:
        radii = [radius(of, i, 3) for i in range(len(of))]
        inside = [any(np.linalg.norm(s - x) <= r for x, r in zip(of, radii, strict=True)) for s in samples]
        return float(np.mean(inside))

    radii = [radius(real, i, 5) for i in range(len(real))]
    counts = [sum(np.linalg.norm(g - x) <= r for g in generated) for x, r in zip(real, radii, strict=True)]
    return {
        "precision": share_inside(generated, real),
        "recall": share_inside(real, generated),
        "density": sum(counts) / (5 * len(generated)),
        "coverage": float(np.mean([count > 0 for count in counts])),
    }


@pytest.mark.parametrize(("n", "m", "shift"), [(40, 30, 0.0), (25, 60, 1.0), (530, 7, 0.5)])
def test_neighborhoods_are_the_definitions(n: int, m: int, shift: float) -> None:
    real, generated = points(n, 2), points(m, 2, shift)
    actual = {name: value.item() for name, value in neighborhoods(real, generated).items()}
    assert actual == pytest.approx(by_loops(real.numpy(), generated.numpy()), abs=1e-6)
    assert any(0 < value < 1 for value in actual.values())


def test_neighborhoods_of_the_same_set() -> None:
    """A ball that reaches to the fifth neighbor holds that one, four others and its center: 6/5."""
    for d in (2, 64):
        real = points(700, d).float().double()
        values = {name: value.item() for name, value in neighborhoods(real, real.clone()).items()}
        assert values == pytest.approx({"precision": 1.0, "recall": 1.0, "density": 1.2, "coverage": 1.0}, abs=1e-6)


def test_a_balls_border_is_in_it() -> None:
    """Of 0, 1, ..., 6, the ball of 0 reaches to 3 for precision and to 5 for density; no other ball holds -3 or -5."""
    real = torch.arange(7, dtype=torch.double)[:, None]
    generated = torch.tensor([[-3.0], [-100.0], [-200.0], [-300.0], [-400.0]], dtype=torch.double)
    assert neighborhoods(real, generated)["precision"].item() == pytest.approx(1 / 5)
    generated[0] = -5.0
    values = neighborhoods(real, generated)
    assert values["precision"] == 0
    assert values["density"].item() == pytest.approx(1 / 25)
    assert values["coverage"].item() == pytest.approx(1 / 7)


def test_neighborhoods_of_sets_far_apart() -> None:
    values = neighborhoods(points(50, 3), points(50, 3, 100.0))
    assert [value.item() for value in values.values()] == [0.0, 0.0, 0.0, 0.0]


def test_a_generator_that_repeats_one_image_is_precise_and_recalls_nothing() -> None:
    real = points(50, 3)
    values = neighborhoods(real, real[:1].repeat(50, 1))
    assert values["precision"] == 1
    assert values["recall"].item() == pytest.approx(1 / 50)
    # the balls that hold the image, and all of its copies
    holds = int(values["coverage"].item() * 50 + 0.5)
    assert values["density"].item() == pytest.approx(holds / 5)


# ---------------------------------------------------------------------------------------------------------- classes


def test_class_divergence_by_hand() -> None:
    """q = (3/4, 1/4, 0), p = (2.5, 1.5, 0.5)/4.5."""
    expected = 0.75 * math.log(0.75 / (2.5 / 4.5)) + 0.25 * math.log(0.25 / (1.5 / 4.5))
    counts = torch.tensor([6.0, 2.0, 0.0], dtype=torch.double), torch.tensor([2, 1, 0])
    assert class_divergence(*counts).item() == pytest.approx(expected, rel=1e-6)
    even = torch.full((4,), 25.0, dtype=torch.double)
    assert class_divergence(even, even).item() == pytest.approx(0, abs=1e-12)


def test_a_class_that_the_data_lacks_is_no_infinity() -> None:
    value = class_divergence(torch.tensor([99.0, 1.0]).double(), torch.tensor([100, 0]))
    assert 0 < value.item() < 0.1


# --------------------------------------------------------------------------------------------------------- the metric


class Brightness(nn.Module):
    """Two features of an image, and two logits: bright or dark. Counts its calls, and its mode is seen."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.noise = nn.Dropout(0.5)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        x = self.noise(images.float() / 255).flatten(1) * self.scale
        mean = x.mean(1)
        return torch.stack([mean, x[:, 0]], 1), torch.stack([mean - 0.5, 0.5 - mean], 1)


def images(n: int, low: float = -1.0, high: float = 1.0) -> Tensor:
    return from_bytes(torch.from_numpy(RANDOM.integers(0, 256, (n, 1, 2, 2)).astype(np.uint8)), (low, high))


def test_pixels_come_back_as_they_were() -> None:
    bytes_ = torch.arange(256, dtype=torch.uint8)
    for value_range in ((-1.0, 1.0), (0.0, 1.0)):
        assert torch.equal(to_bytes(from_bytes(bytes_, value_range), value_range), bytes_)
    assert to_bytes(torch.tensor([-1.5, 1.7, 0.0]), (-1.0, 1.0)).tolist() == [0, 255, 128]


@pytest.mark.parametrize("value_range", [(-1.0, 1.0), (0.0, 1.0)])
def test_the_metric_is_its_parts_on_all_batches(value_range: tuple[float, float]) -> None:
    generated, real = images(60, *value_range), images(60, *value_range)
    network = Brightness()
    metric = ImageMetrics(Features("brightness", network, 0.9), value_range)
    for part in (slice(0, 40), slice(40, 60)):
        metric.update(Batch(generated[part]), Batch(real[part]))
    assert network.calls == 4  # once a batch, generated and real
    low, high = value_range
    means = [((x - low) / (high - low)).flatten(1).double() for x in (generated, real)]
    g, r = (torch.stack([x.mean(1), x[:, 0]], 1) for x in means)
    values = metric.compute()
    expected = {"fid": frechet_distance(r, g), "kid": kernel_distance(r, g), **neighborhoods(r, g)}
    for name, value in expected.items():
        assert_close(values[name].double(), value.double(), rtol=1e-4, atol=1e-6, msg=name)
    logits = torch.stack([g[:, 0] - 0.5, 0.5 - g[:, 0]], 1)
    assert_close(values["inception_score"].double(), inception_score(logits), rtol=1e-5, atol=0)
    counts = [torch.bincount((x[:, 0] < 0.5).long(), minlength=2).double() for x in (g, r)]
    assert values["classes"] == 2
    assert_close(values["class_kl"].double(), class_divergence(*counts), rtol=1e-5, atol=1e-8)


class Pixels(nn.Module):
    """The pixels are features and logits."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = images.flatten(1).float()
        return pixels, pixels


@pytest.mark.parametrize(("chosen", "classes"), [(None, 4), ([0, 1], 2), ([2], 1), ([3, 1], 2)])
def test_only_chosen_classes_are_counted(chosen: list[int] | None, classes: int) -> None:
    """Noise has all four; what is real has one and an image that is taken for another."""
    metric = ImageMetrics(Features("pixels", Pixels(), 0.9), chosen=chosen)
    noise, real = images(80), images(80)
    noise.flatten(1)[range(80), [i % 4 for i in range(80)]] = 1.0
    real[:, 0, 0, 0] = 1.0
    metric.update(Batch(noise), Batch(real))
    assert metric.compute()["classes"] == classes


def test_a_network_that_does_not_know_the_classes_counts_none() -> None:
    metric = ImageMetrics(Features("brightness", Brightness()))
    metric.update(Batch(images(20)), Batch(images(20)))
    assert not {"classes", "class_kl"} & metric.compute().keys()


def test_the_network_belongs_to_no_module_and_stays_in_evaluation_mode() -> None:
    network = Brightness().train()
    owner = nn.Module()
    owner.metrics = MetricCollection({"images": ImageMetrics(Features("brightness", network, 0.9))}, prefix="val/")
    assert list(owner.parameters()) == []
    assert owner.state_dict() == {}
    owner.train()
    real = images(30)
    owner.metrics.update(Batch(real), Batch(real))
    assert not network.training  # with dropout, the two sides would differ
    values = owner.metrics.compute()
    assert values["val/fid"].item() == pytest.approx(0, abs=1e-6)
    assert values["val/coverage"] == 1
    assert all(value.dtype == torch.float32 for value in values.values())


def test_half_precision_leaves_the_features_alone() -> None:
    generated, real = images(30), images(30)
    values = []
    for enabled in (False, True):
        metric = ImageMetrics(Features("linear", Linear(), 0.5))
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            metric.update(Batch(generated), Batch(real))
        values.append(metric.compute())
    assert values[0] == values[1]


class Linear(nn.Module):
    """Four pixels to three features, which are the logits too, by a matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.from_numpy(np.random.default_rng(1).normal(size=(4, 3))).float()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = images.float().flatten(1) @ self.weight
        return features, features


def test_floor_of_real_digits(mnist_root: Path) -> None:
    """Pixels of training against test digits, and two halves: far closer than digits and their negatives."""
    from gan_lightning.data.torchvision import MNIST

    data = MNIST(str(mnist_root), 10, download=False)
    train, test = (data.read(part)[0][:1000].flatten(1)[:, ::16].double() / 255 for part in (True, False))
    floor, negative = neighborhoods(test, train), neighborhoods(test, 1 - train)
    assert floor["precision"] > 0.7
    assert floor["coverage"] > 0.8
    assert negative["precision"] < 0.05
    halves = frechet_distance(test[:500], test[500:])
    assert 0 < halves < 0.02 * frechet_distance(test, 1 - train)
    assert frechet_distance(test, train) < 0.02 * frechet_distance(test, 1 - train)
