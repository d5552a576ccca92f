"""Learning-rate schedules over the whole of a run."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def linear(optimizer: Optimizer, total_steps: int, *, start: float = 0.0, final: float = 0.0) -> LambdaLR:
    """Constant up to the share ``start`` of the run, then on a line to ``final`` times the learning rate."""

    def factor(step: int) -> float:
        progress = min(step / total_steps, 1.0)
        return 1.0 + (final - 1.0) * max(progress - start, 0.0) / max(1.0 - start, 1e-12)

    return LambdaLR(optimizer, factor)


def cosine(optimizer: Optimizer, total_steps: int, *, final: float = 0.0) -> LambdaLR:
    """final + (1 - final) (1 + cos(pi t)) / 2 times the learning rate, t from 0 to 1 (Loshchilov & Hutter 2017)."""

    def factor(step: int) -> float:
        progress = min(step / total_steps, 1.0)
        return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)
