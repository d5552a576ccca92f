"""Metrics that store samples until they are computed."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class Stored(Metric):
    """Base of metrics whose states are lists of samples, which several processes join in the order of one."""

    full_state_update = False

    def store(self, *names: str) -> None:
        """Add a list of samples for each name."""
        for name in names:
            self.add_state(name, default=[], dist_reduce_fx=in_order)

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        for name in self._reductions:  # one part per process, as torchmetrics does for its own reduction of lists
            if len(parts := getattr(self, name)) > 1:
                setattr(self, name, [dim_zero_cat(parts)])
        super()._sync_dist(*args, **kwargs)


def in_order(parts: Sequence[Tensor]) -> Tensor:
    """Join the samples of all processes, of which process r of k has number r, r + k, ..., in the order of one."""
    joined = parts[0].new_empty(sum(map(len, parts)), *parts[0].shape[1:])
    for rank, part in enumerate(parts):
        joined[rank :: len(parts)] = part
    return joined
