"""Changed options of optimizers and schedules hold from the step on at which a run is resumed."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, LRScheduler, MultiplicativeLR, StepLR

from gan_lightning.rebuilt import built, take_changes

SCHEDULES: list[Callable[[Optimizer], LRScheduler]] = [
    partial(StepLR, step_size=2, gamma=0.5),
    partial(ExponentialLR, gamma=0.9),
    partial(MultiplicativeLR, lr_lambda=lambda _: 0.8),
    partial(LambdaLR, lr_lambda=lambda step: 1 / (1 + step)),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda part: part.func.__name__)
def test_a_changed_learning_rate_continues_its_schedule(schedule: Callable[[Optimizer], LRScheduler]) -> None:
    """As if the run had begun with it."""

    def scheduled(lr: float, steps: int) -> tuple[Optimizer, LRScheduler]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=lr)
        scheduler = schedule(optimizer)
        for _ in range(steps):
            optimizer.step()
            scheduler.step()
        return optimizer, scheduler

    former, present = (
        built([optimizer], [scheduler]) for optimizer, scheduler in (scheduled(0.1, 0), scheduled(0.4, 0))
    )
    resumed, expected = scheduled(0.1, 5), scheduled(0.4, 5)
    take_changes([resumed[0]], [resumed[1]], former, present)
    for _ in range(4):
        assert resumed[0].param_groups[0]["lr"] == pytest.approx(expected[0].param_groups[0]["lr"], rel=1e-12)
        for optimizer, scheduler in (resumed, expected):
            optimizer.step()
            scheduler.step()
