"""Both players' losses since the last line of the log."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gan_lightning.errors import Diverged

ADVICE = (
    "training stopped, and the last good checkpoint, if any, is kept; lower the learning rates, clip the gradients "
    "(trainer.gradient_clip_val=1, in Python GAN(gradient_clip_val=1)) or add a penalty (regularizer=r1)."
)


class LossLog:
    """Collects every term of every update on the device, until their means are computed."""

    def __init__(self) -> None:
        self._noted: list[tuple[str, int, Sequence[Mapping[str, Tensor]]]] = []  # player, step, micro-batches

    def add(self, player: str, step: int, micro_batches: Sequence[Mapping[str, Tensor]]) -> None:
        """Add the terms of one update, which belongs to the generator's update ``step``, counted from 1."""
        self._noted.append((player, step, micro_batches))

    def means(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """``loss/PLAYER/TERM``, each term's mean over the updates that had it, and ``loss/PLAYER``, of the sum.

        ``reduce`` takes the mean over processes.

        Raises:
            Diverged: a term is not finite.
        """
        rows = self._rows()
        if not rows:
            return {}
        values = reduce(torch.stack([value for _, _, value in rows]))
        self._check(values, rows)
        where: dict[str, list[int]] = {}
        for i, (name, _, _) in enumerate(rows):
            where.setdefault(name, []).append(i)
        means = {name: values[indices].mean() for name, indices in where.items()}
        for player in {player: None for player, _, _ in self._noted}:
            indices = [i for name, found in where.items() if name.startswith(f"{player}/") for i in found]
            updates = sum(len(micro_batches) for who, _, micro_batches in self._noted if who == player)
            means[player] = values[indices].sum() / updates
        return {f"loss/{name}": means[name] for name in sorted(means)}

    def _rows(self) -> list[tuple[str, int, Tensor]]:
        """PLAYER/TERM, step and value of every term."""
        return [
            (f"{player}/{term}", step, value)
            for player, step, micro_batches in self._noted
            for terms in micro_batches
            for term, value in terms.items()
        ]

    def _check(self, values: Tensor, rows: list[tuple[str, int, Tensor]]) -> None:
        broken = (~values.isfinite()).nonzero()
        if not len(broken):
            return
        name, step, _ = rows[first := int(broken[0])]
        player, _, term = name.partition("/")
        raise Diverged(f"The {player}'s loss is {values[first].item()} at step {step}: {ADVICE} The term is {term}.")

    def clear(self) -> None:
        self._noted.clear()

    def state(self) -> dict[str, Any]:
        """All collected terms in plain containers, with the values as one tensor."""
        values = [value for _, _, value in self._rows()]
        names = [[player, step, [list(terms) for terms in parts]] for player, step, parts in self._noted]
        return {"names": names, "values": torch.stack(values) if values else torch.empty(0)}

    def load(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Restore a state."""
        values = iter(state["values"].to(device).unbind())
        self._noted = [
            (player, step, [{term: next(values) for term in terms} for terms in parts])
            for player, step, parts in state["names"]
        ]
