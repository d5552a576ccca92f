"""What travels from the data to the discriminator."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Samples x, (N, *sample_shape), and what belongs to them, y: classes (N,), attributes, a paired image or nothing."""

    x: Tensor
    y: Tensor | None = None


class Rounds(NamedTuple):
    """Whole training rounds: x, (rounds, critic_steps, accumulate_grad_batches, N, *sample_shape), and y likewise."""

    x: Tensor
    y: Tensor | None = None
