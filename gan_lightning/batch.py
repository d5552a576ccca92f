"""Batches of samples, passed from the data and the generator to the discriminator."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from gan_lightning.errors import UsageError


class Batch(NamedTuple):
    """Samples x (N, *sample_shape) with optional y and z.

    y holds classes (N,), attributes or paired images; z the latents (N, latent_size) of generated samples.
    """

    x: Tensor
    y: Tensor | None = None
    z: Tensor | None = None

    @property
    def samples(self) -> Tensor:
        """x, or the part of it that is no latent."""
        return self.x


class Rounds(NamedTuple):
    """Whole training rounds: x (rounds, critic_steps, accumulate_grad_batches, N, *sample_shape), and y likewise."""

    x: Tensor
    y: Tensor | None = None


def as_batch(batch: Any) -> Batch:
    """Convert a loader's batch, a tensor of samples or a pair of samples and labels, to a Batch.

    Raises:
        UsageError: it is neither.
    """
    if isinstance(batch, Batch):
        return batch
    x, y = batch if isinstance(batch, list | tuple) and len(batch) == 2 else (batch, None)
    if isinstance(x, list | tuple) and len(x) == 1:  # TensorDataset returns a single tensor this way
        x = x[0]
    if not isinstance(x, Tensor) or not isinstance(y, Tensor | None):
        parts = f" of {', '.join(type(part).__name__ for part in batch)}" if isinstance(batch, list | tuple) else ""
        raise UsageError(
            f"A batch of the data loader is a {type(batch).__name__}{parts}: give a tensor (N, *sample_shape), or a "
            "pair (x, y) of tensors."
        )
    return Batch(x, y)


def as_rounds(batch: Any, critic_steps: int, accumulate: int, packing: int = 1) -> Rounds:
    """Convert a loader's batch to Rounds: a plain batch is one round, split into the micro-batches of its updates.

    Raises:
        UsageError: it cannot be split into equal parts of whole packs.
    """
    if isinstance(batch, Rounds):
        return batch
    x, y, _ = as_batch(batch)
    check_cut(len(x), critic_steps, accumulate, packing)
    shape = (1, critic_steps, accumulate, len(x) // (critic_steps * accumulate))
    return Rounds(x.unflatten(0, shape), None if y is None else y.unflatten(0, shape))


def check_cut(n: int, critic_steps: int, accumulate: int, packing: int = 1) -> None:
    """Raise a UsageError if n samples cannot be split into equal micro-batches of whole packs for one round."""
    parts = critic_steps * accumulate * packing
    if n % parts:
        of_packs = f" of packs of packing={packing} samples" if packing > 1 else ""
        raise UsageError(
            f"A batch of {n} samples cannot be split into critic_steps={critic_steps} updates of "
            f"accumulate_grad_batches={accumulate} micro-batches{of_packs}: give the data loader a batch_size "
            f"that is a multiple of {parts}, and drop_last=True."
        )


def micro_batches(rounds: Rounds) -> list[Batch]:
    """The micro-batches of whole rounds, in order."""
    xs = rounds.x.flatten(0, 2).unbind()
    ys = [None] * len(xs) if rounds.y is None else rounds.y.flatten(0, 2).unbind()
    return [Batch(x, y) for x, y in zip(xs, ys, strict=True)]


B = TypeVar("B", Batch, Rounds)


def apply(function: Callable[[Tensor], Tensor], batch: B) -> B:
    """Apply a function to x, and to the other fields if present."""
    return type(batch)._make(None if tensor is None else function(tensor) for tensor in batch)


def concatenate(batches: Sequence[B]) -> B:
    """Concatenate batches with the same fields."""
    fields = zip(*batches, strict=True)
    return type(batches[0])._make(None if field[0] is None else torch.cat(field) for field in fields)
