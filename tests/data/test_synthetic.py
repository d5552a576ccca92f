"""Synthetic data: the same whatever asks for it, and never from the global random stream."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import counts, fit, placed, served, small_gan
from scipy import stats
from torch import Tensor, nn
from torch.distributions import (
    Beta,
    Categorical,
    Distribution,
    Exponential,
    Independent,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
    Uniform,
)
from torch.distributions.transforms import AbsTransform
from torchmetrics import MetricCollection

from gan_lightning.batch import Batch, Rounds
from gan_lightning.callbacks.optimal_discriminator import OptimalDiscriminator
from gan_lightning.callbacks.samples import SamplePictures
from gan_lightning.data.synthetic import Synthetic, sample_from
from gan_lightning.distributions import GaussianMixture, gaussian, grid, has_density, mixture, ring
from gan_lightning.errors import UsageError
from gan_lightning.metrics.distribution import KolmogorovSmirnov

OF_MANY = {"sliced_wasserstein", "c2st"}  # coordinates
OF_MODES = {"modes", "high_quality", "reverse_kl", "reverse_kl_high_quality", "jsd", "by_class", "energy"}


def synthetic(
    distribution: Distribution | None = None,
    *,
    batch_size: int = 4,
    seed: int = 0,
    rounds_per_batch: int = 5,
    rounds_per_epoch: int = 20,
    validation_samples: int = 1001,
    fixed_samples: int | None = None,
    on: SimpleNamespace | None = None,
) -> Synthetic:
    data = Synthetic(
        distribution or ring(),
        batch_size,
        rounds_per_epoch=rounds_per_epoch,
        validation_samples=validation_samples,
        seed=seed,
        rounds_per_batch=rounds_per_batch,
        fixed_samples=fixed_samples,
    )
    data.trainer = on or counts()
    return data


def rounds(data: Synthetic, start: int, stop: int) -> Tensor:
    """The rounds [start, stop), each fetched alone."""
    fetch = data.fetcher()
    return torch.cat([fetch(r, r + 1).x for r in range(start, stop)])


def samples(loader: Iterable[Batch | Rounds]) -> Tensor:
    """The x of all batches together."""
    return torch.cat([batch.x for batch in loader])


def epoch(data: Synthetic) -> list[Tensor]:
    """The batches of an epoch of training."""
    loader = data.train_dataloader()
    return [batch.x for batch in served(loader, len(loader))]


def test_batch_shape() -> None:
    data = synthetic(on=counts(critic_steps=3, accumulate_grad_batches=2))
    assert data.fetcher()(5, 9).x.shape == (4, 3, 2, 4, 2)
    assert synthetic(gaussian()).fetcher()(0, 1).x.shape == (1, 1, 1, 4, 1)


def test_the_rounds_do_not_depend_on_how_they_are_cut() -> None:
    alone = rounds(synthetic(), 0, 20)
    whole = torch.cat(epoch(synthetic()))
    assert torch.equal(whole, alone)
    assert torch.equal(torch.cat(epoch(synthetic(rounds_per_batch=7))), alone)
    parts = ((0, 2), (2, 5), (5, 6), (6, 10), (10, 15), (15, 20))
    ragged = torch.cat([synthetic().fetcher()(a, b).x for a, b in parts])
    assert torch.equal(ragged, alone)


@pytest.mark.parametrize("rounds_per_epoch", [1, 3, 7, 12, 23])
def test_an_epoch_that_is_no_multiple_of_a_batch_has_the_same_rounds(rounds_per_epoch: int) -> None:
    """Batches of 5 then begin anywhere within the blocks that are drawn at once, and go over their ends."""
    loader = synthetic(rounds_per_epoch=rounds_per_epoch).train_dataloader()
    epochs = [[batch.x for batch in served(loader, len(loader))] for _ in range(4)]
    assert [sum(map(len, batches)) for batches in epochs] == [rounds_per_epoch] * 4
    together = torch.cat([batch for batches in epochs for batch in batches])
    assert torch.equal(together, rounds(synthetic(), 0, 4 * rounds_per_epoch))


@pytest.mark.parametrize(("start", "stop"), [(0, 23), (3, 8), (4, 6), (5, 16), (9, 21), (7, 8)])
def test_a_fetch_may_cross_the_ends_of_blocks(start: int, stop: int) -> None:
    on = counts(ranks=2, rank=1, critic_steps=2)
    fetched = synthetic(on=on).fetcher()(start, stop).x
    assert len(fetched) == stop - start
    assert torch.equal(fetched, rounds(synthetic(on=on), start, stop))


def test_a_restored_loader_goes_on() -> None:
    whole = epoch(synthetic())
    rest = [batch.x for batch in served(placed(synthetic().train_dataloader(), 10), 2)]
    assert torch.equal(torch.cat(rest), torch.cat(whole[2:]))


def test_the_last_batch_ends_with_the_run() -> None:
    loader = synthetic(on=counts(max_steps=7)).train_dataloader()
    first, second = (batch.x for batch in served(loader, 9))
    assert (len(first), len(second)) == (5, 2)
    assert torch.equal(torch.cat([first, second]), rounds(synthetic(), 0, 7))
    assert len(synthetic().train_dataloader()) == 4


def test_every_round_is_fresh() -> None:
    drawn = rounds(synthetic(gaussian()), 0, 40).flatten()
    assert len(drawn.unique()) == len(drawn) == 160


def test_fixed_samples_come_once_in_each_pass_in_new_orders() -> None:
    """With their modes, the same from any cut, and on several ranks together those of one."""
    data = synthetic(fixed_samples=22)  # five rounds of 4 in a pass
    passes = [rounds(data, start, start + 5).flatten(0, -2) for start in (0, 5, 10)]
    known = {tuple(x.tolist()) for drawn in passes for x in drawn}
    assert len(known) == 22
    assert all(len(drawn.unique(dim=0)) == 20 for drawn in passes)
    assert not torch.equal(passes[0], passes[1])
    assert torch.equal(data.fetcher()(3, 12).x, rounds(data, 3, 12))
    fetched = data.fetcher()(0, 5)
    assert torch.equal(torch.cdist(fetched.x.flatten(0, -2), ring().modes).argmin(1), fetched.y.flatten())
    shards = [rounds(synthetic(fixed_samples=22, batch_size=2, on=counts(2, rank)), 0, 9) for rank in range(2)]
    assert torch.equal(torch.cat(shards, 3), rounds(data, 0, 9))
    assert not torch.isin(next(iter(data.val_dataloader())).x, torch.cat(passes)).all(1).any()


def test_fewer_fixed_samples_than_a_round_takes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^data\.fixed_samples is 11, but one round takes 12: "):
        synthetic(fixed_samples=11, on=counts(critic_steps=3)).check_size()
    synthetic(fixed_samples=12, on=counts(critic_steps=3)).check_size()
    with pytest.raises(UsageError, match=r"^data\.fixed_samples is 3, but one round takes 4: "):
        synthetic(fixed_samples=3).train_dataloader()  # as under a Trainer of the user's own


def test_seeds_differ() -> None:
    assert torch.equal(rounds(synthetic(seed=1), 0, 10), rounds(synthetic(seed=1), 0, 10))
    assert not torch.isclose(rounds(synthetic(seed=1), 0, 10), rounds(synthetic(seed=2), 0, 10)).any()


def test_the_data_follows_the_distribution() -> None:
    """1.63/sqrt(n) is the 1 % bound of the Kolmogorov-Smirnov distance."""
    distribution = mixture([-3, 0, 3], [0.5, 0.5, 0.5])
    drawn = rounds(synthetic(distribution, batch_size=500), 0, 20).flatten()
    distance = stats.kstest(drawn.numpy(), lambda x: distribution.cdf(torch.from_numpy(x)).numpy()).statistic
    assert distance < 1.63 / math.sqrt(len(drawn))


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_out_the_single_process_batch(ranks: int) -> None:
    gan = {"critic_steps": 2, "accumulate_grad_batches": 3}
    joined = rounds(synthetic(batch_size=3 * ranks, on=counts(**gan)), 0, 10)
    shards = [rounds(synthetic(batch_size=3, on=counts(ranks, rank, **gan)), 0, 10) for rank in range(ranks)]
    assert torch.equal(torch.cat(shards, 3), joined)
    # disjoint: no point is on two ranks
    assert len(torch.cat([s.flatten(0, -2) for s in shards]).unique(dim=0)) == joined.flatten(0, -2).shape[0]


def test_the_global_stream_is_untouched() -> None:
    data = synthetic()
    before = torch.get_rng_state()
    epoch(data)
    list(data.val_dataloader())
    sample_from(data.distribution, 10, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_stream_survives_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError):
        sample_from(gaussian(), -1, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_stream_decides_nothing() -> None:
    torch.manual_seed(1)
    first = rounds(synthetic(), 0, 3), next(iter(synthetic().val_dataloader())).x
    torch.manual_seed(2)
    second = rounds(synthetic(), 0, 3), next(iter(synthetic().val_dataloader())).x
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_validation_is_held_out_and_the_same_each_time() -> None:
    # as many samples as one draw of the training data has: from one stream, they would be the same
    data = synthetic(gaussian(), validation_samples=5 * 4)
    first, second = (samples(data.val_dataloader()) for _ in range(2))
    assert first.shape == (20, 1)
    assert torch.equal(first, second)
    assert not torch.isin(first, rounds(data, 0, 20)).any()


def test_ranks_share_out_the_validation() -> None:
    whole = samples(synthetic().val_dataloader())
    shards = [samples(synthetic(on=counts(2, rank)).val_dataloader()) for rank in range(2)]
    assert [len(shard) for shard in shards] == [501, 500]
    together = torch.empty_like(whole)
    together[0::2], together[1::2] = shards
    assert torch.equal(together, whole)


@pytest.mark.parametrize(
    ("distribution", "shape", "monitor", "metrics"),
    [
        (gaussian(), (1,), ("val/ks", "min"), {"ks", "wasserstein", "jsd", "energy"}),
        (ring(), (2,), ("val/jsd", "min"), OF_MODES | {"width"}),
        (grid(), (2,), ("val/jsd", "min"), OF_MODES | {"width"}),
        (ring(sigma=0.2), (2,), ("val/jsd", "min"), OF_MODES),
    ],
)
def test_the_distribution_brings_its_metrics(
    distribution: GaussianMixture, shape: tuple[int, ...], monitor: tuple[str, str], metrics: set[str]
) -> None:
    data = synthetic(distribution)
    assert data.sample_shape == shape
    assert data.monitor == monitor
    assert data.metrics().keys() == metrics
    assert monitor[0].removeprefix("val/") in metrics
    assert data.rounds_per_epoch == 20


# --------------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("distribution", "rounds_", "held_out"),
    [
        (ring(), [-0.0061415, -1.0181426, -0.998659, -0.0069286], [0.7012527, -0.7141969]),
        (grid(), [3.9692924, -4.090713, 0.0067053, -0.0346424], [3.9707284, 3.9645483]),
        (mixture([-3, 0, 3], [0.5] * 3), [2.4764109, -0.0652654, -0.3897083, 2.711684], [2.707284, 2.6454835]),
        (gaussian(), [-1.0471781, -0.1305307, -0.7794166, -0.5766322], [-0.5854321, -0.7090328]),
    ],
)
def test_samples_are_those_of_the_first_version(
    distribution: GaussianMixture, rounds_: list[float], held_out: list[float]
) -> None:
    """Version 0.1 had no labels; its numbers."""
    data = synthetic(distribution, seed=3, validation_samples=50)
    assert data.fetcher()(13, 14).x.flatten()[:4].tolist() == pytest.approx(rounds_, abs=1e-6)
    assert next(iter(data.val_dataloader())).x.flatten()[:2].tolist() == pytest.approx(held_out, abs=1e-6)


@pytest.mark.parametrize("distribution", [ring(), grid()])
@pytest.mark.parametrize("rank", [0, 1])
def test_labels_are_the_modes_everywhere(distribution: GaussianMixture, rank: int) -> None:
    """In training, in validation and in the floor, each sample's label is its nearest mode."""
    data = synthetic(distribution, on=counts(2, rank, critic_steps=3, accumulate_grad_batches=2))
    part = data.fetcher()(7, 33)
    assert part.y is not None
    assert part.y.shape == part.x.shape[:-1] == (26, 3, 2, 4)
    for batch in (part, *data.val_dataloader(), data.training_samples(50, 1)):
        assert batch.y is not None
        assert batch.y.dtype == torch.int64
        nearest = torch.cdist(batch.x.flatten(0, -2), distribution.modes).argmin(1)
        assert torch.equal(batch.y.flatten(), nearest)
    assert set(part.y.unique().tolist()) == set(range(data.classes))
    assert list(data.class_names) == [str(i) for i in range(len(distribution.modes))]


def test_labels_of_a_mixture_on_a_line_are_its_components() -> None:
    """Components 30 standard deviations apart, in the order in which they were given."""
    data = synthetic(mixture([3, -3, 0], [0.1] * 3))
    (batch,) = data.val_dataloader()
    assert batch.y is not None
    assert torch.equal(batch.y, (batch.x - torch.tensor([3.0, -3.0, 0.0])).abs().argmin(1))


@pytest.mark.parametrize("distribution", [gaussian(), MultivariateNormal(torch.zeros(2), torch.eye(2))])
def test_one_mode_has_no_labels(distribution: Distribution) -> None:
    data = synthetic(distribution)
    assert (data.classes, data.class_names, data.value_range) == (0, (), None)
    assert data.fetcher()(0, 2).y is None
    assert data.training_samples(3, 0).y is None
    assert all(batch.y is None for batch in data.val_dataloader())


def monitored(data: Synthetic, generate: Callable[[Batch], Batch]) -> float:
    """The monitored metric of what a generator makes beside each validation batch."""
    metrics = MetricCollection(data.metrics(), prefix="val/")
    for real in data.val_dataloader():
        metrics.update(generate(real), real)
    assert data.monitor is not None
    return metrics.compute()[data.monitor[0]].item()


def of(distribution: GaussianMixture, labels: bool = False) -> Callable[[Batch], Batch]:
    """A sampler of a distribution, by the labels of the real batch or by its own."""
    return lambda real: sample_from(distribution, len(real.x), 7, real.y if labels else None)


def blurred(distribution: GaussianMixture, factor: float, shift: float = 0.0) -> GaussianMixture:
    return GaussianMixture(distribution.modes + shift, factor * distribution.scales)


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("distribution", [ring(), grid(), ring(sigma=0.2), mixture([-2, 2], [0.5, 0.5])])
def test_the_monitor_ranks_generators_by_their_samples(distribution: GaussianMixture, labels: bool) -> None:
    """A perfect one first, then slightly uneven or blurred ones, then ones whose samples miss every mode."""
    data = synthetic(distribution, validation_samples=2500)
    perfect = monitored(data, of(distribution, labels))
    blurry, blurrier = (monitored(data, of(blurred(distribution, factor), labels)) for factor in (2, 10))
    assert perfect < blurry < blurrier
    assert perfect < monitored(data, of(blurred(distribution, 1, shift=float(distribution.scales[0])), labels))
    if distribution.modes.shape[1] == 2:  # evenly far from all modes of the ring
        heap = monitored(data, lambda real: Batch(0.1 * torch.randn_like(real.x), real.y if labels else None))
        assert heap > 10 * perfect
    if not labels:
        shares = torch.linspace(0.8, 1.2, len(distribution.modes))
        uneven = GaussianMixture(distribution.modes, distribution.scales, shares)
        assert perfect < monitored(data, of(uneven)) < blurrier


@pytest.mark.parametrize("factor", [0.01, 0.5, 0.75, 1.25, 2])
def test_of_one_mode_the_monitor_prefers_its_width(factor: float) -> None:
    distribution = GaussianMixture(torch.ones(1, 2), 0.5)
    data = synthetic(distribution, validation_samples=2500)
    assert monitored(data, of(distribution)) < monitored(data, of(blurred(distribution, factor)))


@pytest.mark.parametrize("y", [torch.tensor([2, 2, 0, 7, 2]), torch.arange(8).repeat(40)])
def test_the_floor_has_samples_of_given_classes(y: Tensor) -> None:
    data = synthetic(ring())
    samples = data.training_samples(len(y), 3, y)
    assert torch.equal(samples.y, y)
    assert ((samples.x - ring().modes[y]).norm(dim=1) < 5 * ring().scales[0]).all()
    assert not torch.isin(samples.x, next(iter(data.val_dataloader())).x).any()


# -------------------------------------------------------------------------------------------- other distributions


def normals(d: int) -> Distribution:
    return Independent(Normal(torch.zeros(d), torch.ones(d)), 1)


OTHERS = [
    (MultivariateNormal(torch.zeros(2), torch.eye(2)), (2,), set(), ("val/energy", "min")),
    (MultivariateNormal(torch.zeros(1), torch.eye(1)), (1,), set(), ("val/energy", "min")),
    (normals(3), (3,), OF_MANY, ("val/energy", "min")),
    (normals(1), (1,), {"ks", "wasserstein", "jsd"}, ("val/ks", "min")),
    (Normal(0.0, 1.0), (1,), {"ks", "wasserstein", "jsd"}, ("val/ks", "min")),
    (Exponential(1.0), (1,), {"ks", "wasserstein", "jsd"}, ("val/ks", "min")),
    (Uniform(0.0, 1.0), (1,), {"ks", "wasserstein", "jsd"}, ("val/ks", "min")),
    (Beta(2.0, 2.0), (1,), set(), ("val/energy", "min")),
    (Categorical(torch.ones(3)), (1,), set(), ("val/energy", "min")),
    (MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double()), (2,), set(), ("val/energy", "min")),
    (Independent(Normal(torch.zeros(3, 4), 1.0), 2), (3, 4), set(), ("val/energy", "min")),
    (GaussianMixture(torch.zeros(1, 2), 1.0), (2,), {"jsd", "high_quality", "width"}, ("val/energy", "min")),
    (GaussianMixture(9 * torch.eye(2).double(), 1.0), (2,), OF_MODES | {"width"}, ("val/jsd", "min")),
    (TransformedDistribution(Normal(0.0, 1.0), AbsTransform()), (1,), set(), ("val/energy", "min")),
    (
        GaussianMixture(torch.eye(5), 0.1),
        (5,),
        OF_MODES | OF_MANY | {"width"},
        ("val/jsd", "min"),
    ),
]


@pytest.mark.parametrize(("distribution", "shape", "metrics", "monitor"), OTHERS)
def test_any_distribution_trains_and_draws(
    distribution: Distribution, shape: tuple[int, ...], metrics: set[str], monitor: Any, tmp_path: Path
) -> None:
    """With validation and D beside D*, which are left out where nothing is known."""
    data = synthetic(distribution, rounds_per_epoch=2, validation_samples=40)
    assert (data.sample_shape, data.monitor) == (shape, monitor)
    assert data.metrics().keys() == metrics | {"energy"}
    n = math.prod(shape)
    generator = nn.Sequential(nn.Linear(3, n), nn.Unflatten(1, shape))
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(n, 1), nn.Flatten(0))
    callbacks = [SamplePictures(2, n=50), OptimalDiscriminator(2, samples=50)]
    gan = small_gan(generator=generator, discriminator=discriminator).float()
    before = gan.sample(5, latents=torch.ones(5, 3))
    done = fit(gan, data, 4, callbacks=callbacks, default_root_dir=tmp_path)
    assert not torch.equal(gan.sample(5, latents=torch.ones(5, 3)), before)
    assert {name.removeprefix("val/") for name in done.callback_metrics if name.startswith("val/")} >= metrics - {
        "by_class"
    }
    assert all(value.isfinite() for value in done.callback_metrics.values())
    assert [path.stem for path in sorted((tmp_path / "samples").iterdir())] == ["0000000", "0000002", "0000004"]
    assert (tmp_path / "discriminator").exists() == (shape == (1,) and has_density(distribution))


@pytest.mark.parametrize("distribution", [Exponential(1.0), Uniform(0.0, 1.0), Normal(0.0, 1.0), normals(1)])
def test_metrics_on_a_line_know_other_distributions(distribution: Distribution) -> None:
    """Perfect samples are within the 1 % bound; others, far outside of the support, are at the distance 1."""
    data = synthetic(distribution)
    samples_ = sample_from(distribution, 5000, 1)
    perfect, far = KolmogorovSmirnov(distribution), KolmogorovSmirnov(distribution)
    perfect.update(samples_, samples_)
    far.update(Batch(samples_.x - 100), samples_)
    assert perfect.compute() < 1.63 / math.sqrt(5000)
    assert far.compute() == 1
    assert data.sample_shape == samples_.x.shape[1:] == (1,)


def test_many_distributions_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^data\.distribution is a batch of distributions, \(3,\): combine them by"):
        synthetic(Normal(torch.zeros(3), torch.ones(3)))


@pytest.mark.parametrize(
    "make",
    [
        *(lambda v=v: ring(radius=v) for v in (1e20, 1e38, 1e39, math.nan, math.inf)),
        *(lambda v=v: ring(sigma=v) for v in (0.0, -1.0, 1e-30, 1e-300, 1e38, 1e39, math.nan)),
        *(lambda v=v: gaussian(mean=v) for v in (1e20, 1e39, -1e39, math.nan)),
        *(lambda v=v: grid(spacing=v) for v in (1e20, 1e39, math.nan)),
        lambda: torch.distributions.Normal(1e30, 1.0),
        lambda: torch.distributions.Normal(0.0, 1e-30),
    ],
)
def test_what_float32_cannot_hold_is_refused(make: Any) -> None:
    with pytest.raises(UsageError, match=r"^data\.distribution has (means|samples) .*"):
        Synthetic(make(), 4, 10, 10)
