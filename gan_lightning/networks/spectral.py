"""Spectral normalization of whole networks."""

from typing import Any, TypeVar

from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm, spectral_norm
from torch.nn.utils.parametrize import is_parametrized

from gan_lightning.errors import UsageError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Linear, nn.Embedding, *CONVOLUTIONS)

Network = TypeVar("Network", bound=nn.Module)


def spectrally_normalized(network: Network) -> Network:
    """Apply spectral normalization W / sigma(W) to all linear, convolutional and embedding weights of a network.

    sigma is the largest singular value of W as a matrix (outputs, everything else), estimated by one power iteration
    per forward pass in training (Miyato et al. 2018, algorithm 1); the singular vectors are buffers. A zero W, which
    cannot be normalized, is initialized from Xavier's uniform distribution. BatchNorm is unchanged.

    Raises:
        UsageError: there is no such weight, or one is parametrized otherwise.
    """
    layers: dict[str, Any] = {name: layer for name, layer in network.named_modules() if isinstance(layer, LAYERS)}
    if not layers:
        raise UsageError(
            "model.spectral_norm=true normalizes linear, convolutional and embedding layers, but the discriminator has "
            "none: leave it out."
        )
    for name, layer in layers.items():
        if not is_parametrized(layer, "weight"):
            if not layer.weight.any():
                nn.init.xavier_uniform_(layer.weight)
            spectral_norm(layer)
        elif not any(isinstance(part, _SpectralNorm) for part in layer.parametrizations.weight):
            raise UsageError(
                f"model.spectral_norm=true cannot normalize the layer {name} of the discriminator, whose weight has "
                "another parametrization: remove it, or leave out model.spectral_norm."
            )
    network.samplewise = False  # type: ignore[assignment]  # each pass runs a power iteration
    return network
