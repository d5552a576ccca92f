"""Several processes, each with the whole GAN, that differ only in their samples."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, distributed
from torch.optim import Optimizer

from gan_lightning.launcher import Processes


class Replicas(DDPStrategy):
    """One mean of gradients over the processes for each update, of the weights that it moves and of no others.

    DistributedDataParallel's wrapper, made for one loss, exchanges both networks' gradients after either backward pass,
    and once for each micro-batch.
    """

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = Processes(self.cluster_environment, self.num_processes, self.num_nodes)

    def configure_ddp(self) -> None:
        """Every process begins with the first one's weights; none is wrapped."""
        assert self.model is not None
        from_first([*self.model.parameters(), *self.model.buffers()])

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """The step, and after it the first process's BatchNorm statistics for all."""
        output = super().training_step(*args, **kwargs)
        assert self.lightning_module is not None
        from_first([buffer for buffer in self.lightning_module.buffers() if buffer.is_floating_point()])
        return output

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any], model: Any = None, **kwargs: Any) -> Any:
        """The step on the gradients' means; under a scaler too, since all processes scale alike."""
        weights = [weight for group in optimizer.param_groups for weight in group["params"] if weight.requires_grad]
        for weight in weights:
            if weight.grad is None:  # it may have one in another process
                weight.grad = torch.zeros_like(weight)
        average([weight.grad for weight in weights])
        return super().optimizer_step(optimizer, closure, model, **kwargs)


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Each tensor becomes its mean over the processes, by one exchange."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    _unflatten(flat, tensors)


@torch.no_grad()
def from_first(tensors: Sequence[Tensor]) -> None:
    """Each tensor becomes the first process's, by one exchange for each type."""
    for dtype in {tensor.dtype: None for tensor in tensors}:  # not a set, whose order differs between processes
        alike = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.flatten() for tensor in alike])
        distributed.broadcast(flat, 0)
        _unflatten(flat, alike)


def _unflatten(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    parts = flat.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(list(tensors), [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)])
