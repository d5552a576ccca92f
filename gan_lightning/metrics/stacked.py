"""The modes of Stacked MNIST, by a digit classifier on each channel (Lin et al. 2018, section 4.2)."""

import torch
from torch import Tensor
from torchmetrics import Metric

from gan_lightning.batch import Batch
from gan_lightning.metrics.features import Features
from gan_lightning.pixels import to_bytes

DIGITS = 10
SIDE = 28  # pixels of a digit; larger images have a border


class StackedModes(Metric):
    """``modes``, how many of the 1,000 triples of digits occur, and KL divergences of their shares q.

    ``kl`` is KL(q | uniform) in nats, as published; ``kl_exact`` is KL(q | p), where p(a, b, c) = s_a s_b s_c with the
    digits' ``shares`` s, (10,), in MNIST. For n real samples, the latter is about 999/2n, .0195 at 25,600.
    """

    full_state_update = False
    counts: Tensor
    shares: Tensor

    def __init__(self, features: Features, value_range: tuple[float, float], shares: Tensor) -> None:
        super().__init__()
        self.features = features
        self.value_range = value_range
        self.register_buffer("shares", shares, persistent=False)
        self.add_state("counts", default=torch.zeros(DIGITS**3, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, generated: Batch, real: Batch) -> None:
        border = (generated.x.shape[-1] - SIDE) // 2
        images = to_bytes(generated.x, self.value_range)[..., border : border + SIDE, border : border + SIDE]
        digits = self.features(images.flatten(0, 1)[:, None])[1].argmax(1).view(-1, 3)
        triples = (digits[:, 0] * DIGITS + digits[:, 1]) * DIGITS + digits[:, 2]
        self.counts = self.counts + torch.bincount(triples, minlength=DIGITS**3)  # not in place: inference tensors

    def compute(self) -> dict[str, Tensor]:
        q = self.counts / self.counts.sum()
        p = torch.einsum("a,b,c->abc", self.shares, self.shares, self.shares).flatten()
        return {
            "modes": (self.counts > 0).sum().float(),
            "kl": torch.special.xlogy(q, q * DIGITS**3).sum(),
            "kl_exact": torch.special.xlogy(q, q / p).sum(),
        }
