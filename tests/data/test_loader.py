"""Rounds, their division among ranks, and the loader that goes on from a number."""

from itertools import islice

import pytest
import torch
from torch.testing import assert_close

from gan_lightning.batch import Batch, Rounds
from gan_lightning.data.loader import Batches, RealData, RoundLoader, RoundShape
from gan_lightning.streams import stream_seed


def numbers(start: int, stop: int) -> Rounds:
    """Rounds that are their own numbers."""
    return Rounds(torch.arange(start, stop))


def served(loader: RoundLoader, batches: int) -> list[list[int]]:
    """The rounds of so many batches, over as many epochs as that takes."""

    def endless() -> object:
        while True:
            yield from loader

    return [batch.x.tolist() for batch in islice(endless(), batches)]


@pytest.mark.parametrize(("rounds", "per_batch", "batches"), [(10, 1, 10), (10, 5, 2), (10, 3, 4), (2, 5, 1)])
def test_length(rounds: int, per_batch: int, batches: int) -> None:
    loader = RoundLoader(numbers, rounds, per_batch)
    assert len(loader) == batches
    assert len(list(loader)) == batches


def test_batches_end_at_multiples_and_at_the_last_round() -> None:
    assert served(RoundLoader(numbers, 9, 3, last_round=8), 3) == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert served(RoundLoader(numbers, 9, 3, last_round=6), 2) == [[0, 1, 2], [3, 4, 5]]


def test_a_longer_run_falls_back_into_step() -> None:
    """The fourth batch ends where that of one run would, though the run stopped in the third."""
    first = RoundLoader(numbers, 12, 3, last_round=7)
    assert served(first, 3) == [[0, 1, 2], [3, 4, 5], [6]]
    second = RoundLoader(numbers, 12, 3, last_round=12)
    second.load_state_dict(first.state_dict())
    assert served(second, 1) == [[7, 8, 9, 10, 11]]
    for stops in ([7, 8, 24], [1, 2, 3, 24]):  # cut more than once in a batch
        batches, state = 0, first.state_dict() | {"position": 0}
        for stop in stops:
            loader = RoundLoader(numbers, 12, 3, last_round=stop)
            loader.load_state_dict(state)
            while loader.position < stop:
                served(loader, 1)
                batches += 1
            state = loader.state_dict()
        assert batches == 8
    across = RoundLoader(numbers, 7, 3)  # a cut last batch goes on into the next epoch
    across.load_state_dict({"position": 5})
    assert served(across, 2) == [[5, 6], [7, 8, 9]]
    across.load_state_dict({"position": 4})
    assert served(across, 2) == [[4, 5, 6], [7, 8, 9]]


@pytest.mark.parametrize(("rounds", "per_batch"), [(10, 3), (10, 4), (7, 5), (5, 7), (12, 4), (1, 10)])
def test_batches_end_with_their_epoch(rounds: int, per_batch: int) -> None:
    """Where the length of an epoch is no multiple of a batch's, its last batch is shorter."""
    loader = RoundLoader(numbers, rounds, per_batch)
    for epoch in range(4):
        batches = [batch.x.tolist() for batch in loader]
        first = epoch * rounds
        assert [r for batch in batches for r in batch] == list(range(first, first + rounds))
        assert [len(batch) for batch in batches[:-1]] == [per_batch] * (len(loader) - 1)
        assert len(batches[-1]) == (rounds - 1) % per_batch + 1


@pytest.mark.parametrize("batches", range(9))
def test_a_ragged_epoch_goes_on_after_a_restore(batches: int) -> None:
    """Epochs of seven rounds in batches of three, three and one."""
    whole = served(RoundLoader(numbers, 7, 3), 12)
    first, second = RoundLoader(numbers, 7, 3), RoundLoader(numbers, 7, 3)
    served(first, batches)
    second.load_state_dict(first.state_dict())
    assert served(second, 12 - batches) == whole[batches:]
    assert [len(batch) for batch in whole] == [3, 3, 1] * 4


def test_epochs_follow_each_other() -> None:
    loader = RoundLoader(numbers, 4, 2)
    assert [batch.x.tolist() for batch in loader] == [[0, 1], [2, 3]]
    assert [batch.x.tolist() for batch in loader] == [[4, 5], [6, 7]]
    assert loader.position == 8


@pytest.mark.parametrize("per_batch", [1, 2, 3, 7])
@pytest.mark.parametrize("last_round", [None, 20])
def test_a_restored_loader_yields_exactly_the_rest(per_batch: int, last_round: int | None) -> None:
    def loader() -> RoundLoader:
        return RoundLoader(numbers, 5, per_batch, last_round)

    total = -(-20 // per_batch)
    whole = served(loader(), total)
    for done in range(total):
        first, second = loader(), loader()
        served(first, done)
        second.load_state_dict(first.state_dict())
        assert served(second, total - done) == whole[done:]


@pytest.mark.parametrize("position", range(11))
def test_any_position_will_do(position: int) -> None:
    loader = RoundLoader(numbers, 12, 4, last_round=11)
    loader.load_state_dict({"position": position})
    left = max(1, 3 - -(-position // 4))  # what is left of a batch comes with the next one
    rounds = [r for batch in served(loader, left) for r in batch]
    assert rounds == list(range(position, 11))


def test_the_state_is_saved_before_the_batch_is_used() -> None:
    """A checkpoint inside a training step must not repeat the batch of that step."""
    loader = RoundLoader(numbers, 4, 2)
    assert next(iter(loader)).x.tolist() == [0, 1]
    assert loader.state_dict() == {"position": 2, "ahead": 0}


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
