"""Apply changed options of optimizers and schedules to a resumed run, whose loaded states have the former ones."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from gan_lightning.optim import OptionsLR


def built(optimizers: Sequence[Optimizer], schedulers: Sequence[LRScheduler] = ()) -> dict[str, list[Any]]:
    """The options that optimizers were created with, in plain containers, and the initial states of schedulers."""
    groups = [[_without_weights(group) for group in optimizer.param_groups] for optimizer in optimizers]
    return {"optimizers": groups, "schedulers": [scheduler.state_dict() for scheduler in schedulers]}


def take_changes(
    optimizers: Sequence[Optimizer],
    schedulers: Sequence[LRScheduler],
    former: dict[str, list[Any]],
    present: dict[str, list[Any]],
) -> None:
    """Apply what differs between ``former`` and ``present`` from the current step on; all else stays as loaded."""
    if not former["optimizers"] or not present["optimizers"]:
        return  # of a subclass with its own configure_optimizers
    for optimizer, before, after in zip(optimizers, former["optimizers"], present["optimizers"], strict=True):
        if before != after:
            state = optimizer.state_dict()
            state["param_groups"] = _merged(state["param_groups"], before, after)
            optimizer.load_state_dict(state)  # also moves step counters to where fused or capturable ones need them
            _add_missing(optimizer)
    if len(former["schedulers"]) != len(schedulers):
        return
    for i, scheduler in enumerate(schedulers):
        before, after = former["schedulers"][i], present["schedulers"][i]
        # the former rates, which the changed ones are to have the same proportion to
        rates = zip(scheduler._last_lr, _base_rates(scheduler), strict=True)
        shares = [float(rate) / float(base) if base else 1.0 for rate, base in rates]
        if before != after:
            scheduler.load_state_dict(_merged(scheduler.state_dict(), before, after))
        _set_rates(scheduler, shares, before != after)


def _merged(now: Any, before: Any, after: Any) -> Any:
    """``now``, with the values of ``after`` where they differ from ``before``."""
    if isinstance(now, dict) and isinstance(before, dict) and isinstance(after, dict):
        return {k: _merged(v, before.get(k), after[k]) if k in after else v for k, v in now.items()}
    lists = isinstance(now, list) and isinstance(before, list) and isinstance(after, list)
    if lists and len(now) == len(before) == len(after):
        return [_merged(*values) for values in zip(now, before, after, strict=True)]
    return now if before == after else after


def _without_weights(group: dict[str, Any]) -> dict[str, Any]:
    # copied, since a schedule changes a learning rate that is a tensor in place
    return {name: deepcopy(value) for name, value in group.items() if name != "params"}


def _add_missing(optimizer: Optimizer) -> None:
    """Add the state per weight that the changed options need, as a first step with zero gradients initializes it."""
    fresh = deepcopy(optimizer)
    fresh.state.clear()
    for group in fresh.param_groups:
        for weight in group["params"]:
            weight.detach().zero_()
            weight.grad = torch.zeros_like(weight)
    fresh.step()
    for new, group in zip(fresh.param_groups, optimizer.param_groups, strict=True):
        for zeros, weight in zip(new["params"], group["params"], strict=True):
            if weight in optimizer.state:
                absent = {k: v for k, v in fresh.state[zeros].items() if optimizer.state[weight].get(k) is None}
                optimizer.state[weight].update(absent)


def _base_rates(scheduler: Any) -> Sequence[float | Tensor]:
    """The learning rates that a schedule starts from; SequentialLR and ChainedScheduler have those of their parts."""
    return scheduler.base_lrs if hasattr(scheduler, "base_lrs") else _base_rates(scheduler._schedulers[0])


def _set_rates(scheduler: LRScheduler, shares: Sequence[float], is_changed: bool) -> None:
    """Set the learning rates that a schedule has at its current step.

    Before the change, they were ``shares`` of the base rates.

    The state of LambdaLR does not include its functions, so a change to them, or to the run's length, cannot be
    detected. Its rates are always recomputed, which has no effect if nothing has changed.
    """
    groups, bases = scheduler.optimizer.param_groups, _base_rates(scheduler)
    if isinstance(scheduler, LambdaLR):
        factors = [factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
        rates = [base * factor for base, factor in zip(bases, factors, strict=True)]
    elif not is_changed:
        return
    elif hasattr(scheduler, "_get_closed_form_lr"):
        rates = scheduler._get_closed_form_lr()
    else:
        rates = [base * share for base, share in zip(bases, shares, strict=True)]
    for group, base, rate in zip(groups, bases, rates, strict=True):
        group["initial_lr"], group["lr"] = base, rate
    scheduler._last_lr = rates
    if isinstance(scheduler, OptionsLR):
        scheduler.set_options()
