"""Rounds, their division among ranks, and the loader that goes on from a number."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import helpers
import pytest
import torch
from helpers import counted, counts, fit, placed, resumed, small_gan
from lightning import Callback
from lightning.fabric.utilities.types import _Stateful
from torch.testing import assert_close

from gan_lightning.batch import Batch, Rounds
from gan_lightning.callbacks.checkpoint import RunCheckpoint
from gan_lightning.data.loader import Batches, RealData, RoundLoader, RoundShape
from gan_lightning.streams import stream_seed


def numbers(start: int, stop: int) -> Rounds:
    """Rounds that are their own numbers."""
    return Rounds(torch.arange(start, stop))


def loader(rounds: int, per_batch: int, trainer: Any = None, **options: int) -> RoundLoader:
    return RoundLoader(numbers, rounds, per_batch, trainer or counts(**options))


def served(loader: RoundLoader, batches: int = 10**9) -> list[list[int]]:
    """The rounds of the next batches, or of all up to ``max_steps``."""
    return [batch.x.tolist() for batch in helpers.served(loader, batches)]


def in_parts(rounds: int, per_batch: int, stops: Sequence[int], **options: int) -> tuple[list[list[int]], Any]:
    """The batches of a run to each stop in turn, and its counts at the end."""
    trainer, batches = counts(**options), []
    for stop in stops:
        trainer = resumed(trainer, max_steps=stop)
        batches += served(loader(rounds, per_batch, trainer))
    return batches, trainer


@pytest.mark.parametrize(("rounds", "per_batch", "batches"), [(10, 1, 10), (10, 5, 2), (10, 3, 4), (2, 5, 1)])
def test_length(rounds: int, per_batch: int, batches: int) -> None:
    assert len(loader(rounds, per_batch)) == batches


def test_lightning_counts_the_batches() -> None:
    """The loader only knows an epoch that has ended, which Lightning asks for another batch of after a resume."""
    trainer = counts()
    trainer.num_training_batches = 2
    assert [batch.x.tolist() for batch in islice(loader(4, 2, trainer), 5)] == [[0, 1]] * 5
    trainer.global_step, trainer.fit_loop.batch_idx = 4, 1
    assert list(loader(4, 2, trainer)) == []


def test_batches_end_at_multiples_and_at_the_last_round() -> None:
    assert served(loader(9, 3, max_steps=8)) == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert served(loader(9, 3, max_steps=6)) == [[0, 1, 2], [3, 4, 5]]
    assert served(loader(4, 3, max_steps=6)) == [[0, 1, 2], [3], [4, 5]]


def test_a_longer_run_falls_back_into_step() -> None:
    """The fourth batch ends where that of one run would, though the run stopped in the third."""
    assert in_parts(12, 3, [7, 12])[0] == [[0, 1, 2], [3, 4, 5], [6], [7, 8, 9, 10, 11]]
    # a cut last batch goes on into the next epoch
    assert in_parts(12, 3, [10, 18])[0] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9], [10, 11, 12, 13, 14], [15, 16, 17]]
    assert in_parts(7, 3, [5, 10])[0] == [[0, 1, 2], [3, 4], [5, 6], [7, 8, 9]]
    assert in_parts(7, 3, [4, 10])[0] == [[0, 1, 2], [3], [4, 5, 6], [7, 8, 9]]


@pytest.mark.parametrize(
    "stops", [[7], [10], [11], [7, 8], [10, 11], [11, 13], [1, 2, 3], [9, 10, 11, 13], [1, 2, 4, 5]]
)
@pytest.mark.parametrize(("rounds", "per_batch"), [(12, 3), (7, 3), (11, 4), (24, 6)])
def test_after_any_stops_a_run_has_the_counts_of_one(stops: list[int], rounds: int, per_batch: int) -> None:
    """Cut once or more in a batch, also in the last of an epoch: no batch has more than twice its rounds."""
    last = 4 * rounds
    whole, expected = in_parts(rounds, per_batch, [last])
    batches, trainer = in_parts(rounds, per_batch, [*stops, last])
    assert [r for batch in batches for r in batch] == list(range(last))
    assert len(batches) == len(whole)
    assert counted(trainer) == counted(expected) == (last, 4, 0)
    assert max(map(len, batches)) <= 2 * per_batch


@pytest.mark.parametrize("limit", [1, 2, 3, 9])
def test_a_resumed_run_may_have_epochs_of_another_length(limit: int) -> None:
    """Every round comes once, and batches soon have their size again, though the counts no longer agree."""
    trainer = counts(max_steps=65)
    first = served(loader(20, 3, trainer))
    trainer = resumed(trainer, max_steps=300, limit_train_batches=limit)
    second = served(loader(20 if limit < 9 else 50, 3, trainer))
    assert [r for batch in first + second for r in batch] == list(range(300))
    assert max(map(len, second)) <= 6
    assert sum(len(batch) != 3 for batch in second[:-1]) <= 9


@pytest.mark.parametrize(("rounds", "per_batch"), [(10, 3), (10, 4), (7, 5), (5, 7), (12, 4), (1, 10)])
def test_batches_end_with_their_epoch(rounds: int, per_batch: int) -> None:
    """Where the length of an epoch is no multiple of a batch's, its last batch is shorter."""
    one = loader(rounds, per_batch)
    for epoch in range(4):
        assert one.trainer.current_epoch == epoch
        batches = served(one, len(one))
        first = epoch * rounds
        assert [r for batch in batches for r in batch] == list(range(first, first + rounds))
        assert [len(batch) for batch in batches[:-1]] == [per_batch] * (len(one) - 1)
        assert len(batches[-1]) == (rounds - 1) % per_batch + 1


@pytest.mark.parametrize(("limit", "rounds"), [(1, 3), (2, 6), (3, 7), (4, 7)])
def test_a_limit_makes_an_epoch_shorter(limit: int, rounds: int) -> None:
    """Epochs of seven rounds in batches of three, three and one: the next epoch goes on with the next round."""
    one = loader(7, 3, limit_train_batches=limit)
    for epoch in range(4):
        batches = served(one, min(limit, 3))
        assert [r for batch in batches for r in batch] == list(range(epoch * rounds, (epoch + 1) * rounds))
        assert counted(one.trainer) == ((epoch + 1) * rounds, epoch + 1, 0)


@pytest.mark.parametrize(("batches", "rounds"), [(1, 3), (2, 6), (3, 7)])
def test_overfitting_repeats_the_first_epoch(batches: int, rounds: int) -> None:
    """And nothing else: the batches end, and count, where they would."""
    one, plain = loader(7, 3, overfit_batches=batches), loader(7, 3, limit_train_batches=batches)
    for _ in range(4):
        repeated, new = served(one, batches), served(plain, batches)
        assert [r for batch in repeated for r in batch] == list(range(rounds))
        assert [len(batch) for batch in repeated] == [len(batch) for batch in new]
        assert counted(one.trainer) == counted(plain.trainer)


@pytest.mark.parametrize("stops", [[2], [7], [10], [11], [7, 8], [11, 13], [12]])
def test_overfitting_repeats_the_first_epoch_after_a_stop(stops: list[int]) -> None:
    """Also where a batch goes on into the next epoch."""
    batches, trainer = in_parts(12, 3, [*stops, 36], overfit_batches=4)
    plain, expected = in_parts(12, 3, [*stops, 36])
    assert batches == [[r % 12 for r in batch] for batch in plain]
    assert counted(trainer) == counted(expected)


@pytest.mark.parametrize("batches", range(9))
def test_a_ragged_epoch_goes_on_after_a_restore(batches: int) -> None:
    """Epochs of seven rounds in batches of three, three and one."""
    whole = served(loader(7, 3), 12)
    first = loader(7, 3)
    served(first, batches)
    assert served(loader(7, 3, resumed(first.trainer)), 12 - batches) == whole[batches:]
    assert [len(batch) for batch in whole] == [3, 3, 1] * 4


def test_epochs_follow_each_other() -> None:
    one = loader(4, 2)
    assert served(one, 2) == [[0, 1], [2, 3]]
    assert served(one, 2) == [[4, 5], [6, 7]]
    assert counted(one.trainer) == (8, 2, 0)


@pytest.mark.parametrize("per_batch", [1, 2, 3, 7])
@pytest.mark.parametrize("max_steps", [-1, 20])
@pytest.mark.parametrize("limits", [{}, {"limit_train_batches": 2}, {"overfit_batches": 2}])
def test_a_resumed_loader_serves_exactly_the_rest(per_batch: int, max_steps: int, limits: dict[str, int]) -> None:
    whole = served(loader(5, per_batch, max_steps=max_steps, **limits), 20)
    for done in range(len(whole)):
        first = loader(5, per_batch, max_steps=max_steps, **limits)
        served(first, done)
        second = loader(5, per_batch, resumed(first.trainer))
        assert served(second, len(whole) - done) == whole[done:]


@pytest.mark.parametrize("position", range(11))
def test_any_position_will_do(position: int) -> None:
    batches, trainer = in_parts(12, 4, [position])
    assert counted(trainer) == counted(placed(loader(12, 4), position).trainer)
    left = max(1, 3 - len(batches))  # what is left of a batch comes with the next one
    rest = served(loader(12, 4, resumed(trainer, max_steps=11)))
    assert len(rest) == left
    assert [r for batch in rest for r in batch] == list(range(position, 11))


def test_a_loader_has_no_state() -> None:
    """A checkpoint inside a training step cannot repeat that step's batch: the Trainer's counts say what is done."""
    one = loader(4, 2)
    assert served(one, 1) == [[0, 1]]
    assert one.state_dict() == {}
    one.load_state_dict({})
    assert isinstance(one, _Stateful)  # else Lightning warns of a resume within an epoch
    assert served(one, 1) == [[2, 3]]


class Numbered(RealData):
    """Data whose rounds are their own numbers."""

    sample_shape = (2,)

    def __init__(self, rounds_per_epoch: int, rounds_per_batch: int) -> None:
        super().__init__(1, rounds_per_batch=rounds_per_batch)
        self.rounds = rounds_per_epoch

    @property
    def rounds_per_epoch(self) -> int:
        return self.rounds

    def fetcher(self) -> Callable[[int, int], Rounds]:
        return lambda start, stop: Rounds(
            torch.arange(start, stop).double()[:, None, None, None, None].expand(-1, 1, 1, 1, 2)
        )


class Seen(Callback):
    """The rounds of every training step, and the counts that the loader reads before it."""

    def __init__(self) -> None:
        self.rounds: list[list[int]] = []
        self.counts: list[tuple[int, int, int]] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Rounds, batch_idx: int) -> None:
        self.rounds.append(batch.x[:, 0, 0, 0, 0].int().tolist())
        self.counts.append((trainer.global_step, trainer.current_epoch, batch_idx))


@pytest.mark.parametrize(
    "limits", [{}, {"limit_train_batches": 2}, {"overfit_batches": 2}], ids=["whole", "limited", "overfit"]
)
@pytest.mark.parametrize(
    ("rounds", "per_batch", "stops"),
    [
        (7, 3, [20]),  # within a batch of the third epoch
        (12, 5, [11, 40]),  # in the last batch of an epoch, unless it is limited
        (12, 3, [7, 8, 30]),
        (12, 3, [1, 2, 3, 30]),
        (6, 3, [6, 11, 24]),  # at an epoch's end, and in its last batch
        (4, 9, [3, 10, 17]),  # epochs of one batch
    ],
)
def test_lightning_counts_like_the_stand_in(
    tmp_path: Path, rounds: int, per_batch: int, stops: list[int], limits: dict[str, int]
) -> None:
    """Over several epochs, with ``max_steps`` within batches, and resumed from there."""
    seen, at_rest = Seen(), partial(torch.optim.SGD, lr=0.0)
    checkpoint = None
    for stop in stops:
        gan = small_gan(generator_optimizer=at_rest, discriminator_optimizer=at_rest)
        callbacks = [seen, RunCheckpoint()]
        options = {"enable_checkpointing": True, "default_root_dir": tmp_path, "max_epochs": -1, **limits}
        done = fit(gan, Numbered(rounds, per_batch), stop, checkpoint, callbacks=callbacks, **options)
        assert done.global_step == stop
        checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    expected, trainer = [], counts(**limits)
    before = []
    for stop in stops:
        trainer = resumed(trainer, max_steps=stop)
        one = loader(rounds, per_batch, trainer)
        while trainer.global_step < stop:
            before.append(counted(trainer))
            expected += served(one, 1)
    assert seen.rounds == expected
    assert seen.counts == before


SHAPE = {"critic_steps": 2, "accumulate_grad_batches": 3, "batch_size": 4}


def test_a_rounds_samples() -> None:
    assert RoundShape(**SHAPE, world_size=5, rank=0).samples == 2 * 3 * 5 * 4


@pytest.mark.parametrize("rank", [0, 1, 4])
def test_shard_by_a_loop(rank: int) -> None:
    shape = RoundShape(**SHAPE, world_size=5, rank=rank)
    samples = torch.randn(2 * shape.samples, 7)
    stream = iter(samples)
    expected = torch.empty(2, 2, 3, 4, 7)
    for round_ in range(2):
        for critic_step in range(2):
            for micro_batch in range(3):
                for owner in range(5):
                    for i in range(4):
                        sample = next(stream)
                        if owner == rank:
                            expected[round_, critic_step, micro_batch, i] = sample
    assert torch.equal(shape.shard(samples), expected)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_together_have_the_joined_batch(ranks: int) -> None:
    """k devices with N samples each see what one device sees with k N."""
    one = RoundShape(2, 3, 1, 0, 4 * ranks)
    samples = torch.arange(3 * one.samples)
    shards = [RoundShape(2, 3, ranks, rank, 4).shard(samples) for rank in range(ranks)]
    assert torch.equal(torch.cat(shards, -1), one.shard(samples))


def test_streams_have_their_own_seeds() -> None:
    keys = [(name, seed, i) for name in ("order", "flips", "data") for seed in range(10) for i in range(100)]
    seeds = {stream_seed(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**32 for seed in seeds)
    # a value that differed between processes would break every resumed run
    assert stream_seed("order", 0, 0) == 1_260_945_419


def test_batches_cover_the_samples_in_order() -> None:
    samples = torch.randn(10, 2)
    before = torch.get_rng_state()
    batches = list(Batches(Batch(samples), 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert [len(batch.x) for batch in batches] == [4, 4, 2]
    assert [batch.y for batch in batches] == [None] * 3
    assert len(Batches(Batch(samples), 4)) == 3
    assert_close(torch.cat([batch.x for batch in batches]), samples, rtol=0, atol=0)


def test_batches_cut_the_labels_with_the_samples() -> None:
    batches = list(Batches(Batch(torch.randn(10, 2), torch.arange(10)), 4))
    assert [batch.y.tolist() for batch in batches if batch.y is not None] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize("rank", [0, 1, 4])
def test_labels_are_shared_out_with_their_samples(rank: int) -> None:
    shape = RoundShape(**SHAPE, world_size=5, rank=rank)
    classes = torch.arange(2 * shape.samples)
    rounds = shape.rounds(Batch(classes[:, None].float().expand(-1, 7), classes))
    assert rounds.x.shape == (2, 2, 3, 4, 7)
    assert rounds.y is not None
    assert rounds.y.dtype == torch.int64
    assert torch.equal(rounds.x[..., 0].long(), rounds.y)
    assert shape.rounds(Batch(classes)).y is None


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.batch_size is 0"):
        RealData(0)


def test_data_without_rounds_says_so() -> None:
    data = RealData(4)
    with pytest.raises(TypeError, match="RealData must define rounds_per_epoch"):
        _ = data.rounds_per_epoch
    with pytest.raises(TypeError, match="RealData must define fetcher"):
        data.fetcher()
    assert data.metrics() == {}
