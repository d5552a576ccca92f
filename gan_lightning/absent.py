"""A placeholder for a network that a file does not hold."""

from torch import Tensor, nn

from gan_lightning.errors import UsageError
from gan_lightning.labels import is_conditional


class Absent(nn.Module):
    """Stands for ``network`` and is conditional if that is; calling it raises a UsageError with ``sentence``."""

    def __init__(self, network: nn.Module, sentence: str) -> None:
        super().__init__()
        self.conditional = is_conditional(network)
        self.sentence = sentence

    def forward(self, *_: Tensor) -> Tensor:
        raise UsageError(self.sentence)
