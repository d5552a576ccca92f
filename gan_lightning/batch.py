"""What travels from the data to the discriminator."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Samples x, (N, *sample_shape), and what belongs to them, y: classes (N,), attributes, a paired image or nothing."""

    x: Tensor
    y: Tensor | None = None


class Rounds(NamedTuple):
    """Whole training rounds: x, (rounds, critic_steps, accumulate_grad_batches, N, *sample_shape), and y likewise."""

    x: Tensor
    y: Tensor | None = None


B = TypeVar("B", Batch, Rounds)


def apply(function: Callable[[Tensor], Tensor], batch: B) -> B:
    """The function of x, and of what else the batch has."""
    return type(batch)._make(None if tensor is None else function(tensor) for tensor in batch)


def concatenate(batches: Sequence[B]) -> B:
    """Batches of the same kind as one."""
    fields = zip(*batches, strict=True)
    return type(batches[0])._make(None if field[0] is None else torch.cat(field) for field in fields)
