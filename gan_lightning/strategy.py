"""Data parallelism: several processes, each with the whole GAN, that differ only in their samples."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, distributed
from torch.optim import Optimizer

from gan_lightning.launcher import Processes


class Replicas(DDPStrategy):
    """Average gradients over processes once per update, only for the weights that the update changes.

    DistributedDataParallel, which is made for one loss, would reduce the gradients of both networks after each backward
    pass, once per micro-batch.
    """

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = Processes(self.cluster_environment, self.num_processes, self.num_nodes)

    def configure_ddp(self) -> None:
        """Broadcast the first process's weights; the module is not wrapped."""
        assert self.model is not None
        from_first([*self.model.parameters(), *self.model.buffers()])

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Run the step, then broadcast the first process's BatchNorm statistics."""
        output = super().training_step(*args, **kwargs)
        assert self.lightning_module is not None
        from_first([buffer for buffer in self.lightning_module.buffers() if buffer.is_floating_point()])
        return output

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any], model: Any = None, **kwargs: Any) -> Any:
        """Step on the averaged gradients, also with a gradient scaler, since all processes use the same scale."""
        weights = [weight for group in optimizer.param_groups for weight in group["params"] if weight.requires_grad]
        for weight in weights:
            if weight.grad is None:  # it may have a gradient in another process
                weight.grad = torch.zeros_like(weight)
        average([weight.grad for weight in weights])
        return super().optimizer_step(optimizer, closure, model, **kwargs)


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over processes, by one all-reduce."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    _unflatten(flat, tensors)


@torch.no_grad()
def from_first(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by the first process's, by one broadcast per type."""
    for dtype in {tensor.dtype: None for tensor in tensors}:  # not a set: its order differs between processes
        alike = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.flatten() for tensor in alike])
        distributed.broadcast(flat, 0)
        _unflatten(flat, alike)


def _unflatten(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    parts = flat.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(list(tensors), [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)])
