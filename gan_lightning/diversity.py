"""Terms of the generator's loss that encourage diverse samples."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from gan_lightning.errors import UsageError
from gan_lightning.labels import is_conditional
from gan_lightning.regularizers import CriticPass, Regularizer

EPSILON = 1e-5  # of mode seeking, as in the authors' code
MAGNITUDE = 1e-4  # of GDPP's eigenvalues beside its eigenvectors, as in the authors' code
BROADENING = 1e-12  # added to squared eigenvalue gaps, which may be 0


class DiversityTerm(Regularizer):
    """Base of terms of the generator's loss that compare the samples of a batch, on each device separately."""

    option: str  # of conf/regularizer
    compares_packs = False  # whether it compares what D judges together, not single samples

    def check(self, game: nn.Module, player: str) -> None:
        if player != "generator":
            raise UsageError(
                f"regularizer={self.option} is a term of the generator's loss and has no effect on the discriminator: "
                f"choose regularizer@generator_regularizer={self.option}."
            )

    def check_batch(self, n: int, packing: int) -> None:
        size, what = (packing, f"packs of {packing} samples") if self.compares_packs and packing > 1 else (1, "samples")
        if n < 2 * size:
            raise UsageError(
                f"generator_regularizer.{self.option} compares the {what} of a micro-batch, but one has only "
                f"{n // size}: give each at least {2 * size} samples, by data.batch_size, or by the data loader's "
                "batch_size and drop_last=True."
            )

    def forward(self, critic: CriticPass) -> Tensor:
        self.check_batch(len(critic.fake.x), critic.packing)  # of a loader whose batches are not known before
        return super().forward(critic)


class ModeSeeking(DiversityTerm):
    """1 / (l + 1e-5), l = mean |G(z_1) - G(z_2)| / mean |z_1 - z_2| (Mao et al. 2019).

    The paper generates two samples for each condition. Here, pairs are formed within the batch, which needs no extra
    forward pass; those of a conditional G have the same label, since samples of different classes differ anyway.
    """

    option = "mode_seeking"
    differentiates_twice = False
    allows_bfloat16 = True  # the samples are compared in the latents' type
    by_label = False  # whether G is conditional

    def check(self, game: nn.Module, player: str) -> None:
        super().check(game, player)
        if getattr(game, "translates", False):
            raise UsageError(
                "regularizer@generator_regularizer=mode_seeking compares samples of one condition, but no two in a "
                "batch translate the same image: leave it out."
            )
        self.by_label = is_conditional(game.get_submodule("generator"))

    def penalty(self, critic: CriticPass) -> Tensor:
        _, y, z = critic.fake
        assert z is not None
        x = critic.fake.samples.flatten(1).to(z.dtype)  # G's output may be in half precision
        first, second, are_alike = pairs(len(x), y if self.by_label else None, x.device)
        apart, latent = (((v[first] - v[second]).abs().mean(1) * are_alike).sum() for v in (x, z))
        ratio = apart / latent.clamp(min=torch.finfo(z.dtype).tiny)
        return are_alike.any() / (ratio + EPSILON)


def pairs(n: int, y: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of n samples in pairs, twice (n // 2,), and whether each pair has the same label, (n // 2,).

    Pairs are formed by the two halves of the batch, or by neighbors after sorting by label.
    """
    half = n // 2
    if y is None:
        every = torch.arange(2 * half, device=device)
        return every[:half], every[half:], torch.ones_like(every[half:])
    if y.dim() > 1:
        raise UsageError(
            f"generator_regularizer.mode_seeking compares samples of the same label, but the data has conditions of "
            f"shape {tuple(y.shape[1:])} per sample: leave it out."
        )
    order = y.argsort(stable=True)
    first, second = order[: 2 * half : 2], order[1 : 2 * half : 2]
    return first, second, y[first] == y[second]


class GDPP(DiversityTerm):
    """1e-4 mean_i (r_i - f_i)^2 - sum_i w_i |u_i . v_i| (Elfeki et al. 2019).

    r_i, u_i are the eigenvalues, ascending, and eigenvectors of the kernel of real samples, and f_i, v_i those of
    equally many generated samples. A kernel is the (N, N) matrix of cosine similarities between D's features, the
    inputs of its last layer; w_i is r_i scaled to [0, 1]. The squares and their factor are from the authors' code; the
    absolute value is added because the sign of an eigenvector is arbitrary. The term needs another pass of both batches
    through D and eigendecompositions in float64, which synchronize with the host.
    """

    option = "gdpp"
    compares_packs = True
    replayable = False

    def check(self, game: nn.Module, player: str) -> None:
        super().check(game, player)
        last_layer(game.get_submodule("discriminator"))

    def penalty(self, critic: CriticPass) -> Tensor:
        assert critic.features is not None
        with torch.no_grad():
            real_values, real_vectors = eigenpairs(kernel(critic.features(critic.real)))
        values, vectors = eigenpairs(kernel(critic.features(critic.fake)))
        least, largest = real_values[0], real_values[-1]
        weights = (real_values - least) / (largest - least).clamp(min=BROADENING)
        magnitude = (real_values - values).square().mean()
        structure = (weights * (real_vectors * vectors).sum(0).abs()).sum()
        return (MAGNITUDE * magnitude - structure).to(critic.fake_logits)


def last_layer(discriminator: nn.Module) -> nn.Module:
    """The module whose inputs are D's features: the last of its ``layers``.

    Raises:
        UsageError: D has no ``layers``.
    """
    layers = getattr(discriminator, "layers", None)
    if not isinstance(layers, nn.Sequential) or len(layers) < 2:
        raise UsageError(
            f"regularizer@generator_regularizer=gdpp compares the discriminator's features, but "
            f"{type(discriminator).__name__} has no `layers`, a torch.nn.Sequential whose last module gives the "
            "logits: give it one, or leave the term out."
        )
    return layers[-1]


def kernel(features: Tensor) -> Tensor:
    """Cosine similarities (N, N) between features (N, d), in float64."""
    rows = normalize(features.double(), dim=1)
    return rows @ rows.T


def eigenpairs(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (N,), ascending, and eigenvectors as columns (N, N), differentiable even for repeated eigenvalues.

    dv_i = sum_j v_j (v_j . dK v_i) / (l_i - l_j), where 1/g is replaced by g / (g^2 + 1e-12) for each gap g.
    """
    values, vectors = torch.linalg.eigh(symmetric.detach())
    rotated = vectors.T @ symmetric @ vectors  # diagonal, and carries the gradient
    gaps = values - values[:, None]
    return rotated.diagonal(), vectors + vectors @ (rotated * gaps / (gaps.square() + BROADENING))
