"""The number of threads of a run, and advice about faster options."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from gan_lightning.data.loader import RealData
from gan_lightning.errors import UsageError
from gan_lightning.gan import GAN
from gan_lightning.graphs import check_graphs

WORTH_SHARING = 10**8  # multiply-adds per batch: toy problems take a few million, an MLP on MNIST 500 million


@contextmanager
def threads_for(gan: GAN, data: RealData, threads: int | None) -> Iterator[None]:
    """Set torch's number of CPU threads; None means one if batches are little work and OMP_NUM_THREADS is not set.

    On a busy machine, two threads that wait for each other at every small product are many times slower than one. The
    number of threads affects only the last bits of the results.
    """
    before = torch.get_num_threads()
    if threads is None and "OMP_NUM_THREADS" not in os.environ and multiply_adds(gan, data) < WORTH_SHARING:
        threads = 1
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def multiply_adds(gan: GAN, data: RealData) -> int:
    """Upper bound for a forward pass of a batch through all networks, as if convolutions kept the images' size."""
    pixels = math.prod(data.sample_shape[1:])
    weights = gan.game.parameters()
    return data.batch_size * sum(w.numel() * (pixels if w.dim() == 4 else 1) for w in weights)


def advice(trainer: Any, gan: GAN, data: RealData) -> str | None:
    """A sentence about an option that makes this run faster on its device; None without one (docs/performance.md)."""
    device = trainer.strategy.root_device.type
    if device == "cuda" and not gan.cuda_graphs and can_replay(trainer, gan):
        return "trainer.cuda_graphs=true trains small networks faster on this GPU"
    penalties: Any = gan.game.regularizers.values()  # most of them keep D's passes in full precision
    is_single = trainer.precision == "32-true" and all(part.allows_bfloat16 for part in penalties)
    if device == "cpu" and is_single and multiply_adds(gan, data) >= WORTH_SHARING and has_bf16():
        return "trainer.precision=bf16-mixed trains 1.2 to 2 times faster on this processor, with less precise results"
    return None


def can_replay(trainer: Any, gan: GAN) -> bool:
    """Whether updates can be replayed as CUDA graphs."""
    try:
        check_graphs(gan, trainer)
    except UsageError:
        return False
    return True


def has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 numbers by itself (AMX or AVX-512 BF16)."""
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
