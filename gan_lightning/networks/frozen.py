"""Networks of which only the last layers learn."""

from collections.abc import Iterator

from torch import Tensor, nn

from gan_lightning.errors import UsageError


def freeze(discriminator: nn.Module, k: int) -> None:
    """The first k layers, in the order of their definition, keep their weights (Mo et al. 2020, FreezeD).

    A layer is a module with a matrix or kernels as its weight; what stands between two, as BatchNorm, goes with the
    former. Embeddings of classes learn.

    Raises:
        UsageError: no layer would be left to learn.
    """
    layers = [module for module in discriminator.modules() if _is_layer(module)]
    if k >= len(layers):
        raise UsageError(
            f"model.freeze_discriminator is {k}, and the discriminator has {len(layers)} layers: give at most "
            f"{max(len(layers) - 1, 0)}, so that one can learn."
        )
    embeddings = [module for module in discriminator.modules() if isinstance(module, nn.Embedding)]
    learn = {weight for embedding in embeddings for weight in embedding.parameters()}
    for module in _before(layers[k], discriminator):
        for weight in module.parameters(recurse=False):
            weight.requires_grad_(weight.requires_grad and weight in learn)


def _is_layer(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)  # also of a spectrally normalized one, whose parameter has another name
    return isinstance(weight, Tensor) and weight.dim() > 1 and not isinstance(module, nn.Embedding)


def _before(layer: nn.Module, network: nn.Module) -> Iterator[nn.Module]:
    """The modules that are defined before a layer."""
    for module in network.modules():
        if module is layer:
            return
        yield module
