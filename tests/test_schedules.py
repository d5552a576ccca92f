"""The optimizers' schedules against their formulas and torch's own."""

import io
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from gan_lightning.errors import UsageError
from gan_lightning.optim import cosine, goodfellow, linear, settings

LR = 0.4


def optimizer() -> Optimizer:
    return SGD([nn.Parameter(torch.zeros(1))], lr=LR)


def rates(scheduler: LRScheduler, steps: int) -> list[float]:
    """The learning rate of update 0, 1, ..., steps."""
    values = [scheduler.get_last_lr()[0]]
    for _ in range(steps):
        scheduler.optimizer.step()
        scheduler.step()
        values.append(scheduler.optimizer.param_groups[0]["lr"])
    return values


def test_linear_goes_straight_to_zero() -> None:
    values = rates(linear(optimizer(), 10), 10)
    assert values == pytest.approx([LR * (10 - step) / 10 for step in range(11)], abs=1e-15)


@pytest.mark.parametrize("schedule", [linear, cosine])
def test_a_run_without_updates_has_the_first_rate(schedule: Callable[[Optimizer, int], LRScheduler]) -> None:
    assert schedule(optimizer(), 0).get_last_lr() == [LR]


def test_linear_rests_before_its_start() -> None:
    values = rates(linear(optimizer(), 8, start=0.5, final=0.2), 8)
    assert values == pytest.approx([LR * f for f in (1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2)], abs=1e-15)


def test_linear_that_starts_at_the_end_is_constant() -> None:
    assert rates(linear(optimizer(), 5, start=1.0, final=0.1), 5) == pytest.approx([LR] * 6, abs=1e-15)


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine_at_its_landmarks(final: float) -> None:
    values = rates(cosine(optimizer(), 12, final=final), 12)
    assert values[0] == pytest.approx(LR, abs=1e-15)
    assert values[4] == pytest.approx(LR * (final + (1 - final) * 0.75), abs=1e-15)  # cos(60 degrees) = 1/2
    assert values[6] == pytest.approx(LR * (1 + final) / 2, abs=1e-15)
    assert values[12] == pytest.approx(LR * final, abs=1e-15)


@pytest.mark.parametrize("final", [0.0, 0.25])
def test_cosine_is_torchs_annealing(final: float) -> None:
    reference = CosineAnnealingLR(optimizer(), 20, eta_min=final * LR)
    assert rates(cosine(optimizer(), 20, final=final), 20) == pytest.approx(rates(reference, 20), abs=1e-12)


def adam(*betas: float) -> Optimizer:
    return Adam([{"params": [nn.Parameter(torch.zeros(1))], "betas": (0.1, beta)} for beta in betas], lr=LR)


def betas(scheduler: LRScheduler, steps: int) -> list[list[tuple[float, float]]]:
    """Every group's betas at update 0, 1, ..., steps."""
    values = [[group["betas"] for group in scheduler.optimizer.param_groups]]
    for _ in range(steps):
        rates(scheduler, 1)
        values.append([group["betas"] for group in scheduler.optimizer.param_groups])
    return values


def test_cosine_may_end_before_the_run_does() -> None:
    values = rates(cosine(optimizer(), 100, final=0.25, steps=4), 8)
    assert values[:5] == pytest.approx(rates(cosine(optimizer(), 4, final=0.25), 4), abs=1e-15)
    assert values[4:] == pytest.approx([LR / 4] * 5, abs=1e-15)


def test_cosine_takes_the_second_beta_along() -> None:
    """b + (b_0 - b)(1 + cos(pi t/4))/2 from each group's own b_0; the first beta stays."""
    found = betas(cosine(adam(0.9, 0.5), 100, final=0.25, steps=4, beta2=0.99), 6)
    for i, start in enumerate((0.9, 0.5)):
        expected = [0.99 + (start - 0.99) * (1 + math.cos(math.pi * min(t, 4) / 4)) / 2 for t in range(7)]
        assert [groups[i][1] for groups in found] == pytest.approx(expected, abs=1e-15)
    assert {beta1 for groups in found for beta1, _ in groups} == {0.1}


def test_a_second_beta_goes_on_where_it_was() -> None:
    first = cosine(adam(0.9), 10, beta2=0.99)
    whole = betas(cosine(adam(0.9), 10, beta2=0.99), 10)
    betas(first, 4)
    file = io.BytesIO()
    torch.save({"schedule": first.state_dict(), "optimizer": first.optimizer.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    second = cosine(adam(0.9), 10, beta2=0.99)
    second.load_state_dict(state["schedule"])
    second.optimizer.load_state_dict(state["optimizer"])
    assert betas(second, 6) == whole[4:]


def test_a_second_beta_is_for_optimizers_that_have_one() -> None:
    with pytest.raises(UsageError, match=r"schedule\.beta2 is 0\.99, but SGD has no betas: leave it out\."):
        cosine(optimizer(), 10, beta2=0.99)


def test_what_a_schedule_has_moved_is_told() -> None:
    scheduler = cosine(Adam([nn.Parameter(torch.zeros(1))], lr=LR, betas=(0.0, 0.9)), 2, final=0.5, beta2=0.99)
    assert settings(scheduler.optimizer) == {"learning_rate": LR}
    rates(scheduler, 2)
    assert settings(scheduler.optimizer) == pytest.approx({"learning_rate": LR / 2, "beta2": 0.99})
    scheduler = goodfellow(SGD([nn.Parameter(torch.zeros(1))], lr=LR), 10)
    assert settings(scheduler.optimizer) == pytest.approx({"learning_rate": LR, "momentum": 0.5})


@pytest.mark.parametrize("schedule", [linear, cosine])
def test_past_the_end_the_rate_stays(schedule: type[LRScheduler]) -> None:
    values = rates(schedule(optimizer(), 4, final=0.5), 7)
    assert values[4:] == pytest.approx([LR / 2] * 4, abs=1e-15)


@pytest.mark.parametrize("schedule", [linear, cosine, goodfellow])
def test_state_is_plain_and_goes_on(schedule: type[LRScheduler]) -> None:
    whole = rates(schedule(optimizer(), 10), 10)
    first = schedule(optimizer(), 10)
    rates(first, 4)
    file = io.BytesIO()
    torch.save({"schedule": first.state_dict(), "optimizer": first.optimizer.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    second = schedule(optimizer(), 10)
    second.load_state_dict(state["schedule"])
    second.optimizer.load_state_dict(state["optimizer"])
    assert rates(second, 6) == pytest.approx(whole[4:], abs=1e-15)


@pytest.mark.parametrize("schedule", [linear, cosine])
def test_every_parameter_group_keeps_its_own_rate(schedule: type[LRScheduler]) -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.3)]
    scheduler = schedule(SGD(groups), 2)
    rates(scheduler, 1)
    assert scheduler.get_last_lr() == pytest.approx([0.05, 0.15], abs=1e-15)


def momenta(scheduler: LRScheduler, steps: int) -> list[float]:
    """The momentum of update 0, 1, ..., steps."""
    values = [scheduler.optimizer.param_groups[0]["momentum"]]
    for _ in range(steps):
        rates(scheduler, 1)
        values.append(scheduler.optimizer.param_groups[0]["momentum"])
    return values


def test_goodfellows_rate_is_divided_at_each_update() -> None:
    expected = [LR]
    for _ in range(50):
        expected.append(expected[-1] / 1.02)
    assert rates(goodfellow(optimizer(), 50, decay=1.02), 50) == pytest.approx(expected, rel=1e-12)


def test_goodfellows_rate_after_an_epoch_of_the_paper() -> None:
    values = rates(goodfellow(optimizer(), 10**6), 500)
    assert values[500] == pytest.approx(LR / 1.000004**500, rel=1e-12)
    assert values[500] < LR * 0.9981


def test_goodfellows_rate_has_a_floor() -> None:
    values = rates(goodfellow(optimizer(), 10, decay=2.0, min_lr=0.03), 6)
    assert values == pytest.approx([0.4, 0.2, 0.1, 0.05, 0.03, 0.03, 0.03], rel=1e-12)


def test_a_rate_below_goodfellows_floor_is_refused() -> None:
    goodfellow(optimizer(), 10, min_lr=LR)
    with pytest.raises(UsageError, match=r"^schedule\.min_lr is 0\.5, above the learning rate 0\.4: lower it\.$"):
        goodfellow(optimizer(), 10, min_lr=0.5)


def test_goodfellows_floor_is_the_same_for_every_group() -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.3)]
    scheduler = goodfellow(SGD(groups), 2, decay=10.0, min_lr=0.02)
    rates(scheduler, 1)
    assert scheduler.get_last_lr() == pytest.approx([0.02, 0.03], rel=1e-12)


def test_goodfellows_momentum_rises_and_stays() -> None:
    """0.5 + 0.2 t / 4 up to t = 4, for every group and from the first update."""
    groups = [{"params": [nn.Parameter(torch.zeros(1))]} for _ in range(2)]
    scheduler = goodfellow(SGD(groups, lr=LR, momentum=0.1), 100, saturate=4)
    assert momenta(scheduler, 6) == pytest.approx([0.5, 0.55, 0.6, 0.65, 0.7, 0.7, 0.7], abs=1e-15)
    assert [group["momentum"] for group in scheduler.optimizer.param_groups] == pytest.approx([0.7, 0.7])


def test_goodfellows_momentum_is_the_first_beta_of_adam() -> None:
    """As in torch's OneCycleLR."""
    scheduler = goodfellow(Adam([nn.Parameter(torch.zeros(1))], betas=(0.9, 0.99)), 100, saturate=2)
    found = [scheduler.optimizer.param_groups[0]["betas"]]
    for _ in range(3):
        rates(scheduler, 1)
        found.append(scheduler.optimizer.param_groups[0]["betas"])
    assert [beta2 for _, beta2 in found] == [0.99] * 4
    assert [beta1 for beta1, _ in found] == pytest.approx([0.5, 0.6, 0.7, 0.7], abs=1e-15)
    assert "momentum" not in scheduler.optimizer.param_groups[0]


def trained(weight: nn.Parameter, scheduler: LRScheduler, steps: int) -> None:
    """Descend weight^4 / 4."""
    for _ in range(steps):
        weight.grad = weight.detach() ** 3
        scheduler.optimizer.step()
        scheduler.step()


def test_goodfellow_goes_on_bit_for_bit() -> None:
    """Rate, momentum and velocity of a resumed run are those of the whole one."""

    def start(value: float) -> tuple[nn.Parameter, LRScheduler]:
        weight = nn.Parameter(torch.tensor(value, dtype=torch.double))
        return weight, goodfellow(SGD([weight], lr=0.1, momentum=0.5), 20, decay=1.01, saturate=15)

    whole, scheduler = start(1.0)
    trained(whole, scheduler, 20)
    first, stopped = start(1.0)
    trained(first, stopped, 7)
    file = io.BytesIO()
    torch.save({"schedule": stopped.state_dict(), "optimizer": stopped.optimizer.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    second, resumed = start(first.item())
    resumed.optimizer.load_state_dict(state["optimizer"])
    resumed.load_state_dict(state["schedule"])
    trained(second, resumed, 13)
    assert second.item() == whole.item()
    assert resumed.optimizer.param_groups[0]["momentum"] == scheduler.optimizer.param_groups[0]["momentum"]
    assert resumed.get_last_lr() == scheduler.get_last_lr()
