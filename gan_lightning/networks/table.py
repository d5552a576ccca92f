"""Rows of a table: numbers, and categories as one-hot vectors that the latents themselves draw."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gan_lightning.errors import UsageError
from gan_lightning.networks import mlp

LEAST = 1e-6  # of a uniform number whose logarithm is taken


class Generator(nn.Module):
    """An MLP whose outputs are numbers and logits of categories, (N, latent_size) to (N, sum of blocks).

    ``blocks`` are the widths of a table's columns, 1 of a numeric one; others are one-hot by the straight-through
    Gumbel-softmax of that ``temperature`` (Jang et al. 2017, section 2.2): the category is argmax(logits + g), and the
    gradient that of softmax((logits + g) / temperature). g is Gumbel noise that the last latents make, of a normal
    prior, as many as there are categories, so that a sample follows from its latents.
    """

    def __init__(
        self,
        latent_size: int,
        sample_shape: tuple[int, ...],
        widths: Sequence[int],
        batch_norm: bool = True,
        temperature: float = 0.5,
        blocks: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.blocks = tuple(blocks) or (1,) * sample_shape[0]
        if len(sample_shape) != 1 or sum(self.blocks) != sample_shape[0]:
            raise UsageError(
                f"model=table makes rows, and samples have shape {tuple(sample_shape)}: choose another model."
            )
        self.categories = sum(width for width in self.blocks if width > 1)
        if latent_size <= self.categories:
            raise UsageError(
                f"model.latent_size is {latent_size}: give more than {self.categories}, of which each category of the "
                "table takes one."
            )
        self.temperature = temperature
        self.body = mlp.Generator(latent_size - self.categories, sample_shape, widths, batch_norm)

    def forward(self, z: Tensor) -> Tensor:
        latents, noise = z.split([z.shape[1] - self.categories, self.categories], 1)
        outputs, start, parts = self.body(latents), 0, []
        for part in outputs.split(self.blocks, 1):
            width = part.shape[1]
            if width > 1:
                part = self._one_hot(part + gumbel(noise[:, start : start + width]))
                start += width
            parts.append(part)
        return torch.cat(parts, 1)

    def _one_hot(self, scores: Tensor) -> Tensor:
        soft = (scores / self.temperature).softmax(1)
        hard = (scores >= scores.amax(1, keepdim=True)).to(soft)
        return hard + (soft - soft.detach())


def gumbel(z: Tensor) -> Tensor:
    """-log(-log(Phi(z))), Gumbel noise of normal latents."""
    uniform = (0.5 * (1 + torch.erf(z / math.sqrt(2)))).clamp(LEAST, 1 - LEAST)
    return -(-uniform.log()).log()
