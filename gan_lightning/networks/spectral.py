"""Spectral normalization of whole networks."""

from typing import TypeVar

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Linear, nn.Embedding, *CONVOLUTIONS)

Network = TypeVar("Network", bound=nn.Module)


def spectrally_normalized(network: Network) -> Network:
    """Apply spectral normalization W / sigma(W) to all linear, convolutional and embedding weights of a network.

    sigma is the largest singular value of W as a matrix (outputs, everything else), estimated by one power iteration
    per forward pass in training (Miyato et al. 2018, algorithm 1); the singular vectors are buffers. A zero W, which
    cannot be normalized, is initialized from Xavier's uniform distribution. BatchNorm is unchanged.
    """
    for layer in list(network.modules()):
        if isinstance(layer, LAYERS) and not is_parametrized(layer, "weight"):
            if not layer.weight.any():
                nn.init.xavier_uniform_(layer.weight)
            spectral_norm(layer)
    network.samplewise = False  # type: ignore[assignment]  # each pass runs a power iteration
    return network
