"""Networks for table rows: numbers, and categories as one-hot vectors sampled with noise from the latents."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gan_lightning.errors import UsageError
from gan_lightning.networks import mlp

LEAST = 1e-6  # smallest uniform number whose logarithm is taken


class Generator(nn.Module):
    """An MLP whose outputs are numbers and category logits, (N, latent_size) to (N, sum of blocks).

    ``blocks`` are the widths of the table's columns, 1 for a numeric column. Other columns are one-hot vectors from the
    straight-through Gumbel-softmax (Jang et al. 2017, section 2.2): the category is argmax(logits + g), and the
    gradient is that of softmax((logits + g) / temperature). The Gumbel noise g is computed from the last latents, one
    per category, assuming a normal prior, so samples are a function of z.
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
                f"model=table makes rows, but samples have shape {tuple(sample_shape)}: choose another model."
            )
        self.categories = sum(width for width in self.blocks if width > 1)
        if latent_size <= self.categories:
            raise UsageError(
                f"model.latent_size is {latent_size}: give more than {self.categories}, since each category of the "
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
    """-log(-log(Phi(z))), Gumbel noise from normal latents."""
    uniform = (0.5 * (1 + torch.erf(z / math.sqrt(2)))).clamp(LEAST, 1 - LEAST)
    return -(-uniform.log()).log()
