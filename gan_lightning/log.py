"""What both players' losses were since the last line of the log."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gan_lightning.errors import Diverged

ADVICE = (
    "training stopped and the last good checkpoint stays; lower the learning rates, clip the gradients "
    "(trainer.gradient_clip_val=1) or add a penalty (regularizer=r1)."
)


class LossLog:
    """Every term of every update, on the device, until their means are asked for."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = {}  # by PLAYER/TERM
        self._steps: dict[str, list[int]] = {}
        self._updates: dict[str, int] = {}  # by PLAYER, of micro-batches

    def add(self, player: str, step: int, micro_batches: Sequence[dict[str, Tensor]]) -> None:
        """Note the terms of one update, which belongs to the generator's update ``step``, from 1."""
        for terms in micro_batches:
            for term, value in terms.items():
                name = f"{player}/{term}"
                self._values.setdefault(name, []).append(value)
                self._steps.setdefault(name, []).append(step)
        self._updates[player] = self._updates.get(player, 0) + len(micro_batches)

    def means(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """``loss/PLAYER/TERM``, each term's mean over the updates that had it, and ``loss/PLAYER``, of their sum.

        ``reduce`` takes the mean over processes.

        Raises:
            Diverged: one of them is not finite.
        """
        if not self._values:
            return {}
        values = reduce(torch.stack([value for terms in self._values.values() for value in terms]))
        parts = dict(zip(self._values, values.split([len(v) for v in self._values.values()]), strict=True))
        self._check(values, parts)
        totals = {
            f"loss/{player}": torch.stack([p.sum() for name, p in parts.items() if name.startswith(f"{player}/")]).sum()
            / n
            for player, n in self._updates.items()
        }
        return totals | {f"loss/{name}": part.mean() for name, part in parts.items()}

    def _check(self, values: Tensor, parts: dict[str, Tensor]) -> None:
        if values.isfinite().all():
            return
        broken = [
            (step, name, value)
            for name, part in parts.items()
            for step, value in zip(self._steps[name], part.tolist(), strict=True)
            if value - value != 0
        ]
        step, name, value = min(broken, key=lambda found: found[0])
        player, _, term = name.partition("/")
        raise Diverged(f"The {player}'s loss is {value} at step {step}: {ADVICE} The term is {term}.")

    def clear(self) -> None:
        for noted in (self._values, self._steps, self._updates):
            noted.clear()

    def state(self) -> dict[str, dict[str, Any]]:
        """All that was noted, in plain containers."""
        values = {name: torch.stack(values) for name, values in self._values.items()}
        return {"values": values, "steps": {k: list(v) for k, v in self._steps.items()}, "updates": dict(self._updates)}

    def load(self, state: dict[str, dict[str, Any]], device: torch.device) -> None:
        """Go on from a state."""
        self._values = {name: list(values.to(device).unbind()) for name, values in state["values"].items()}
        self._steps = {name: list(steps) for name, steps in state["steps"].items()}
        self._updates = dict(state["updates"])
