"""Freezing the first layers of a network."""

from collections.abc import Iterator

from torch import Tensor, nn

from gan_lightning.errors import UsageError


def freeze(discriminator: nn.Module, k: int) -> None:
    """Freeze the first k layers of D, in order of definition (Mo et al. 2020, FreezeD).

    A layer is a module with a matrix or kernels as weight; modules between two layers, such as BatchNorm, belong to the
    first one. Class embeddings are not frozen.

    Raises:
        UsageError: no layer would be trainable.
    """
    layers = [module for module in discriminator.modules() if _is_layer(module)]
    if k >= len(layers):
        raise UsageError(
            f"model.freeze_discriminator is {k}, but the discriminator has {len(layers)} layers: give at most "
            f"{max(len(layers) - 1, 0)}, so that one is trainable."
        )
    embeddings = [module for module in discriminator.modules() if isinstance(module, nn.Embedding)]
    learn = {weight for embedding in embeddings for weight in embedding.parameters()}
    for module in _before(layers[k], discriminator):
        for weight in module.parameters(recurse=False):
            weight.requires_grad_(weight.requires_grad and weight in learn)


def _is_layer(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)  # also found under spectral normalization, which renames the parameter
    return isinstance(weight, Tensor) and weight.dim() > 1 and not isinstance(module, nn.Embedding)


def _before(layer: nn.Module, network: nn.Module) -> Iterator[nn.Module]:
    """The modules defined before a layer."""
    for module in network.modules():
        if module is layer:
            return
        yield module
