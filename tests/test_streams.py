"""Random numbers are a function of (seed, name, step, rank), and of nothing that happened before."""

from itertools import pairwise

import torch
from torch import Tensor
from torch.testing import assert_close

from gan_lightning.streams import WORD, Streams, fixed_rows, joint, stream_seed

CPU = torch.device("cpu")


def normal(n: int, generator: torch.Generator | None) -> Tensor:
    return torch.randn(n, 3, generator=generator)


def draws(streams: Streams, step: int, n: int = 4) -> tuple[Tensor, Tensor]:
    """What one round draws for its samples, and from torch's own stream."""
    streams.begin(step)
    with streams.running():
        return joint(normal, n, CPU), torch.rand(5)


def test_a_round_draws_the_same_whatever_came_before() -> None:
    first = draws(Streams(3, 0, 1, CPU), 17)
    streams = Streams(3, 0, 1, CPU)
    for step in (5, 900, 16):
        draws(streams, step)
    torch.manual_seed(99)
    assert_close(draws(streams, 17), first, rtol=0, atol=0)


def test_seeds_and_steps_differ() -> None:
    seen = [draws(Streams(seed, 0, 1, CPU), step) for seed in (0, 1) for step in (0, 1, 2**31)]
    for kind in range(2):
        values = {tuple(pair[kind].flatten().tolist()) for pair in seen}
        assert len(values) == len(seen)


def test_no_two_steps_share_a_seed() -> None:
    streams = Streams(3, 1, 2, CPU)
    steps = [*range(3000), *(2**k for k in range(12, 32)), WORD - 1]
    seeds = []
    for step in steps:
        streams.begin(step)
        seeds.append((streams.generator.initial_seed(), torch.initial_seed()))
    for of_one_stream in zip(*seeds, strict=True):
        assert len(set(of_one_stream)) == len(steps)


def test_processes_draw_together_what_one_would() -> None:
    whole, _ = draws(Streams(7, 0, 1, CPU), 3, n=12)
    parts = [draws(Streams(7, rank, 3, CPU), 3, n=4) for rank in range(3)]
    assert_close(torch.cat([rows for rows, _ in parts]), whole, rtol=0, atol=0)
    assert len({tuple(own.tolist()) for _, own in parts}) == 3  # dropout differs between processes


def test_outside_of_a_run_joint_draws_from_torchs_own_stream() -> None:
    torch.manual_seed(1)
    rows = joint(normal, 4, CPU)
    torch.manual_seed(1)
    assert_close(rows, torch.randn(4, 3), rtol=0, atol=0)


def test_fixed_rows_are_the_same_however_they_are_cut() -> None:
    whole = fixed_rows(normal, 5, 0, 2500)
    assert whole.shape == (2500, 3)
    cuts = [0, 1, 999, 1000, 1001, 2300, 2500]
    parts = [fixed_rows(normal, 5, a, b) for a, b in pairwise(cuts)]
    assert_close(torch.cat(parts), whole, rtol=0, atol=0)
    assert (whole[:1000] - whole[1000:2000]).abs().max() > 1
    assert abs(whole.mean().item()) < 0.05
    assert abs(whole.std().item() - 1) < 0.05


def test_a_streams_seed_does_not_depend_on_the_process() -> None:
    assert stream_seed("order", 0, 3) == 1705763318
