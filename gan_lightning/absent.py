"""What stands in the place of a network that a file does not hold."""

from torch import Tensor, nn

from gan_lightning.errors import UsageError
from gan_lightning.game import is_conditional


class Absent(nn.Module):
    """Conditional as the network is; to call it raises the sentence that says what is missing."""

    def __init__(self, network: nn.Module, sentence: str) -> None:
        super().__init__()
        self.conditional = is_conditional(network)
        self.sentence = sentence

    def forward(self, *_: Tensor) -> Tensor:
        raise UsageError(self.sentence)
