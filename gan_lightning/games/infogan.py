"""InfoGAN (Chen et al. 2016): the first latents are codes, which additional outputs of D recover from samples."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from gan_lightning.batch import Batch
from gan_lightning.checks import COUNT, SIZE, check_values
from gan_lightning.errors import UsageError
from gan_lightning.game import Game, Terms, check_outputs
from gan_lightning.metrics.categories import CategoryMatch
from gan_lightning.priors import Prior

REACH = 2.0  # range of continuous codes in pictures, as in the paper's figure 2, beyond the [-1, 1] of training
ROWS = 4  # number of latents for which each continuous code is varied


class Codes(Prior):
    """z = (one-hot category, codes from U(-1, 1), noise from N(0, 1)), all independent."""

    def __init__(self, size: int, categories: int = 10, continuous: int = 2) -> None:
        super().__init__(size)
        self.categories, self.continuous = categories, continuous
        check_values(self, categories=SIZE, continuous=COUNT)
        if size < categories + continuous:
            raise UsageError(
                f"model.latent_size is {size}, but prior=codes needs {categories} categories and {continuous} "
                f"continuous codes: give at least {categories + continuous}."
            )

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        device = None if generator is None else generator.device
        category = torch.randint(self.categories, (n,), generator=generator, device=device)
        codes = torch.rand(n, self.continuous, generator=generator, device=device)
        noise = self.size - self.categories - self.continuous
        rest = torch.randn(n, noise, generator=generator, device=device)
        return torch.cat([one_hot(category, self.categories).float(), 2 * codes - 1, rest], 1)


def codes(prior: Prior) -> Codes:
    """Return the prior if it has codes.

    Raises:
        UsageError: it has no codes.
    """
    if not isinstance(prior, Codes):
        name = type(prior).__name__.lower()
        raise UsageError(f"game=infogan recovers codes, which prior={name} does not have: choose prior=codes.")
    return prior


class InfoGAN(Game):
    """Both players also maximize E log Q(c | G(z)), a lower bound on the information I(c; G(z)) (equations 4 and 5).

    Q shares D's body: outputs (N, 1 + categories + continuous) are the logit, the category logits and the means of
    unit-variance Gaussians, whose normalizing constant is omitted.
    """

    judges_packs = False
    own_terms = {
        "generator": ("adversarial", "category", "continuous"),
        "discriminator": ("adversarial", "category", "continuous"),
    }

    def __init__(self, *args: Any, category_weight: float = 1.0, continuous_weight: float = 0.1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        prior = codes(self.prior)
        self.categories, self.continuous = prior.categories, prior.continuous
        self.category_weight, self.continuous_weight = category_weight, continuous_weight
        if self.is_conditional:
            raise UsageError("game=infogan discovers categories without labels: leave out model.conditional.")

    @classmethod
    def network_options(
        cls, network: str, sample_shape: tuple[int, ...], classes: int, **options: Any
    ) -> dict[str, Any]:
        given = super().network_options(network, sample_shape, classes, **options)
        prior = codes(options["prior"])
        outputs = 1 + prior.categories + prior.continuous
        return given | ({"outputs": outputs} if network == "discriminator" else {})

    def discriminator_terms(self, real: Batch, fake: Batch, update: int) -> Terms:
        terms = super().discriminator_terms(real, fake, update)
        return terms._replace(losses=terms.losses | self._information(terms.outputs["fake"], fake))

    def generator_terms(self, real: Batch, fake: Batch, update: int) -> Terms:
        terms = super().generator_terms(real, fake, update)
        return terms._replace(losses=terms.losses | self._information(terms.outputs["fake"], fake))

    def _information(self, outputs: Tensor, fake: Batch) -> dict[str, Tensor]:
        """-log Q(c | x) of the category and the continuous codes, weighted."""
        assert fake.z is not None
        k, end = self.categories, self.categories + self.continuous
        check_outputs(outputs, 1 + end, "the logit, a logit for each category and a mean for each continuous code")
        category = cross_entropy(outputs[:, 1 : 1 + k], fake.z[:, :k])
        continuous = 0.5 * (outputs[:, 1 + k :] - fake.z[:, k:end]).square().sum(1).mean()
        return {"category": self.category_weight * category, "continuous": self.continuous_weight * continuous}

    def metrics(self, data: Any) -> dict[str, Any]:
        """The agreement of categories and the data's classes, if there is a classifier of these."""
        images = data.metrics().get("images")
        if getattr(getattr(images, "features", None), "accuracy", None) is None:
            return {}
        return {
            "category_match": CategoryMatch(
                images.features, data.value_range, self.categories, len(data.all_class_names)
            )
        }

    def illustrate(self, z: Tensor, real: Batch) -> Tensor:
        """A row of all categories, then rows that vary each continuous code, (rows, categories, *sample_shape)."""
        k = self.categories
        rows = [z[0].repeat(k, 1)]
        rows[0][:, :k] = torch.eye(k)
        for code in range(k, k + self.continuous):
            for latent in z[:ROWS]:
                rows.append(latent.repeat(k, 1))
                rows[-1][:, code] = torch.linspace(-REACH, REACH, k)
        return self.generate(torch.cat(rows)).x.unflatten(0, (-1, k))
