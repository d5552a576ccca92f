"""Changed options of optimizers and schedules hold from the step on at which a run is resumed."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiplicativeLR,
    SequentialLR,
    StepLR,
)

from gan_lightning.rebuilt import built, take_changes


def warmed_up(optimizer: Optimizer) -> SequentialLR:
    return SequentialLR(optimizer, [LinearLR(optimizer, 0.1, total_iters=3), ExponentialLR(optimizer, 0.9)], [3])


def chained(optimizer: Optimizer) -> ChainedScheduler:
    return ChainedScheduler([ConstantLR(optimizer, 0.5, total_iters=7), ExponentialLR(optimizer, 0.9)])


SCHEDULES: list[Callable[[Optimizer], LRScheduler]] = [
    partial(StepLR, step_size=2, gamma=0.5),
    partial(ExponentialLR, gamma=0.9),
    partial(MultiplicativeLR, lr_lambda=lambda _: 0.8),
    partial(LambdaLR, lr_lambda=lambda step: 1 / (1 + step)),
    partial(CosineAnnealingLR, T_max=20),
    partial(warmed_up),
    partial(chained),
]


@pytest.mark.parametrize("is_tensor", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("lr", [0.4, 0.1], ids=["changed", "equal"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda part: part.func.__name__)
def test_a_changed_learning_rate_continues_its_schedule(
    schedule: Callable[[Optimizer], LRScheduler], lr: float, is_tensor: bool
) -> None:
    """As if the run had begun with it."""

    def scheduled(lr: float, steps: int) -> tuple[Optimizer, LRScheduler]:
        rate = torch.tensor(lr, dtype=torch.double) if is_tensor else lr
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=rate)
        scheduler = schedule(optimizer)
        for _ in range(steps):
            optimizer.step()
            scheduler.step()
        return optimizer, scheduler

    former, present = (
        built([optimizer], [scheduler]) for optimizer, scheduler in (scheduled(0.1, 0), scheduled(lr, 0))
    )
    resumed, expected = scheduled(0.1, 5), scheduled(lr, 5)
    take_changes([resumed[0]], [resumed[1]], former, present)
    for _ in range(4):
        assert float(resumed[0].param_groups[0]["lr"]) == pytest.approx(
            float(expected[0].param_groups[0]["lr"]), rel=1e-12
        )
        for optimizer, scheduler in (resumed, expected):
            optimizer.step()
            scheduler.step()
