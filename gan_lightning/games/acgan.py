"""Auxiliary classifier GAN: D also says which class a sample is of (Odena et al. 2017)."""

from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from gan_lightning.batch import Batch
from gan_lightning.errors import UsageError
from gan_lightning.game import Game, Terms
from gan_lightning.labels import is_conditional


class ACGAN(Game):
    """L_D = L_S + w (CE(x) + CE(G(z, y))), L_G = L_S + w CE(G(z, y)) (Odena et al. 2017, section 3).

    L_S is the player's adversarial loss on D's first output, (N,), and CE is the cross-entropy between its other
    outputs, (N, classes), and the class y.
    """

    judges_packs = False
    own_terms = {
        "generator": ("adversarial", "class_fake"),
        "discriminator": ("adversarial", "class_real", "class_fake"),
    }

    def __init__(self, *args: Any, weight: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not is_conditional(self.generator):
            raise UsageError(
                "game=acgan needs a conditional generator: set model.generator.conditional=true, or conditional = True "
                "in your own network."
            )
        self.weight = weight

    @classmethod
    def network_options(
        cls, network: str, sample_shape: tuple[int, ...], classes: int, **options: Any
    ) -> dict[str, Any]:
        given = super().network_options(network, sample_shape, classes)
        return given | {"outputs": 1 + classes} if network == "discriminator" else given

    def discriminator_terms(self, real: Batch, fake: Batch, update: int) -> Terms:
        terms = super().discriminator_terms(real, fake, update)
        for name, batch in (("real", real), ("fake", fake)):
            terms.losses[f"class_{name}"] = self._class_term(terms.outputs[name], batch)
        return terms

    def generator_terms(self, real: Batch, fake: Batch, update: int) -> Terms:
        terms = super().generator_terms(real, fake, update)
        terms.losses["class_fake"] = self._class_term(terms.outputs["fake"], fake)
        return terms

    def _class_term(self, outputs: Tensor, batch: Batch) -> Tensor:
        assert batch.y is not None  # otherwise the generator has raised an error
        if outputs.dim() != 2 or outputs.shape[1] < 2:
            raise UsageError(
                f"The discriminator gives outputs {tuple(outputs.shape)}, but (N, 1 + classes) is expected: the logit "
                "and a logit for each class."
            )
        return self.weight * cross_entropy(outputs[:, 1:], batch.y)
