"""The generator's own terms against the papers' equations, computed another way in double precision."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from composing import composed
from omegaconf import DictConfig
from test_regularizers import central_differences
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.data import DataLoader

from gan_lightning import priors
from gan_lightning.batch import Batch
from gan_lightning.build import build_gan
from gan_lightning.diversity import GDPP, DiversityTerm, ModeSeeking, eigenpairs
from gan_lightning.errors import UsageError
from gan_lightning.game import Game
from gan_lightning.gan import GAN
from gan_lightning.losses import Relativistic
from gan_lightning.regularizers import CriticPass
from gan_lightning.training import train

Configure = Callable[..., DictConfig]

N = 6


class D(nn.Module):
    """D with four features and, given ``conditional``, a class's logit beside theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).squeeze(1)


class Conditional(nn.Module):
    """G of z and a label, which it leaves aside."""

    conditional = True

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        assert len(y) == len(z)
        return self.layers(z)


def game_of(
    *terms: DiversityTerm, discriminator: nn.Module | None = None, conditional: bool = False, **options: Any
) -> Game:
    torch.manual_seed(1)
    chosen = {type(term).__name__: term for term in terms}
    generator = Conditional() if conditional else Conditional().layers
    return Game(generator, discriminator or D(), priors.Normal(3), generator_regularizers=chosen, **options).double()


def batches(game: Game, y: Tensor | None = None) -> tuple[Batch, Batch]:
    stream = torch.Generator().manual_seed(2)
    real = torch.randn(N, 2, dtype=torch.double, generator=stream)
    return Batch(real, y), game.generate(torch.randn(N, 3, dtype=torch.double, generator=stream), y)


def only(terms: dict[str, Tensor]) -> Tensor:
    (name,) = terms.keys() - {"adversarial"}
    return terms[name]


# --------------------------------------------------------------------------------------------------- mode seeking


def seeking(pairs: list[tuple[int, int]], x: Tensor, z: Tensor) -> float:
    """1 / (l + 1e-5) over these pairs."""
    a, b = x.detach().flatten(1).numpy(), z.detach().numpy()
    apart = np.mean([np.abs(a[i] - a[j]).mean() for i, j in pairs])
    return float(1 / (apart / np.mean([np.abs(b[i] - b[j]).mean() for i, j in pairs]) + 1e-5))


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_mode_seeking_pairs_the_halves_of_the_batch(weight: float) -> None:
    game = game_of(ModeSeeking(weight))
    real, fake = batches(game)
    found = only(game.generator_terms(real, fake, 0).losses)
    assert found.item() == pytest.approx(weight * seeking([(0, 3), (1, 4), (2, 5)], fake.x, fake.z), rel=1e-12)


def test_an_odd_sample_is_left_out() -> None:
    game = game_of(ModeSeeking(1.0))
    real, fake = (Batch(*(None if t is None else t[:5] for t in batch)) for batch in batches(game))
    found = only(game.generator_terms(real, fake, 0).losses)
    assert found.item() == pytest.approx(seeking([(0, 2), (1, 3)], fake.x, fake.z), rel=1e-12)


@pytest.mark.parametrize(
    ("labels", "pairs"),
    [
        ([0, 0, 0, 0, 0, 0], [(0, 1), (2, 3), (4, 5)]),
        ([1, 0, 1, 0, 1, 1], [(1, 3), (0, 2), (4, 5)]),
        ([0, 1, 1, 2, 0, 1], [(0, 4), (1, 2)]),  # 5 and 3 are of two labels
    ],
)
def test_labeled_samples_are_paired_within_their_label(labels: list[int], pairs: list[tuple[int, int]]) -> None:
    game = game_of(ModeSeeking(1.0), conditional=True)
    real, fake = batches(game, torch.tensor(labels))
    found = only(game.generator_terms(real, fake, 0).losses)
    assert found.item() == pytest.approx(seeking(pairs, fake.x, fake.z), rel=1e-12)


@pytest.mark.parametrize("y", [torch.arange(N), torch.randn(N, 7)])
def test_labels_that_an_unconditional_generator_does_not_see_are_left_aside(y: Tensor) -> None:
    game = game_of(ModeSeeking(1.0))
    real, fake = batches(game, y)
    found = only(game.generator_terms(real, fake, 0).losses)
    assert found.item() == pytest.approx(seeking([(0, 3), (1, 4), (2, 5)], fake.x, fake.z), rel=1e-12)


def test_without_two_samples_of_a_label_there_is_nothing_to_seek() -> None:
    game = game_of(ModeSeeking(1.0), conditional=True)
    real, fake = batches(game, torch.arange(N))
    found = only(game.generator_terms(real, fake, 0).losses)
    assert found.item() == 0
    found.backward()
    assert all(p.grad is None or not p.grad.any() for p in game.generator.parameters())


def test_collapsed_samples_have_a_finite_gradient() -> None:
    for term in (ModeSeeking(1.0), GDPP(1.0)):
        game = game_of(term)
        game.generator[2].weight.data.zero_()
        real, fake = batches(game)
        only(game.generator_terms(real, fake, 0).losses).backward()
        assert all(p.grad.isfinite().all() for p in game.generator.parameters())


# ----------------------------------------------------------------------------------------------------------- GDPP


def gdpp(real: np.ndarray, fake: np.ndarray) -> float:
    """By singular values of the features, whose squares and left vectors are the kernel's."""

    def pairs(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = features / np.sqrt((features**2).sum(1, keepdims=True))
        vectors, values, _ = np.linalg.svd(rows, full_matrices=False)
        return values**2, vectors

    (r, u), (f, v) = pairs(real), pairs(fake)
    n, rank = len(real), len(r)
    zeros = n - rank  # more eigenvalues, of weight 0
    weights = (r - (0 if zeros else r.min())) / (r.max() - (0 if zeros else r.min()))
    cosines = np.array([abs(u[:, i] @ v[:, i]) for i in range(rank)])
    return 1e-4 * ((r - f) ** 2).sum() / n - (weights * cosines).sum()


@pytest.mark.parametrize("weight", [1.0, 0.3])
@pytest.mark.parametrize("loss", [None, Relativistic()])
def test_gdpp_compares_the_features_before_the_logit(weight: float, loss: Any) -> None:
    """Six samples of four features: the kernels have two eigenvalues of 0."""
    game = game_of(GDPP(weight), loss=loss)
    real, fake = batches(game)
    found = only(game.generator_terms(real, fake, 0).losses)
    features = [game.discriminator.layers[:2](batch.x).detach().numpy() for batch in (real, fake)]
    assert found.item() == pytest.approx(weight * gdpp(*features), rel=1e-9)
    assert not game.discriminator.layers[-1]._forward_pre_hooks


def test_of_one_batch_twice_the_magnitude_is_nothing_and_the_vectors_agree() -> None:
    features = torch.randn(5, 8, dtype=torch.double)
    critic = CriticPass(Batch(features), Batch(features), None, features, lambda b: b.x, lambda b: b.x)
    rows = features / features.norm(dim=1, keepdim=True)
    values = torch.linalg.svdvals(rows).square()
    assert_close(GDPP(1.0)(critic), -((values - values.min()) / (values.max() - values.min())).sum())


@pytest.mark.parametrize("term", [ModeSeeking(1.0), GDPP(1.0)])
def test_half_precision_ends_where_they_begin(term: DiversityTerm) -> None:
    game = game_of(term)
    real, fake = (Batch(*(None if t is None else t.float() for t in batch)) for batch in batches(game))
    game.float()
    expected = only(game.generator_terms(real, fake._replace(x=fake.x.bfloat16().float()), 0).losses)
    with torch.autocast("cpu", torch.bfloat16):
        found = only(game.generator_terms(real, fake._replace(x=fake.x.bfloat16()), 0).losses)
    assert_close(found, expected)
    assert found.dtype == torch.float32


@pytest.mark.parametrize("term", [ModeSeeking(0.7), GDPP(0.7)])
def test_the_gradient_in_the_generators_weights(term: DiversityTerm) -> None:
    """Against central differences, of samples far enough apart that no two eigenvalues are nearly the same."""
    game = game_of(term)
    game.generator[2].weight.data *= 5
    game.discriminator.layers[0].weight.data *= 2

    def loss() -> Tensor:
        real, fake = batches(game)
        return only(game.generator_terms(real, fake, 0).losses)

    weight = game.generator[0].weight
    (gradient,) = torch.autograd.grad(loss(), weight)
    assert gradient.abs().max() > 1e-4
    assert_close(gradient, central_differences(loss, weight), rtol=1e-5, atol=1e-8)


def test_eigenpairs_where_eigenvalues_meet() -> None:
    """The derivative of what does not depend on the choice of vectors is exact, and nothing is infinite."""
    base = torch.diag(torch.tensor([1.0, 1.0, 3.0], dtype=torch.double)).requires_grad_()
    values, vectors = eigenpairs(base)
    assert_close(values, torch.tensor([1.0, 1.0, 3.0], dtype=torch.double))
    projection = (vectors[:, :2] @ vectors[:, :2].T)[0, 2]  # onto the eigenspace of 1
    (gradient,) = torch.autograd.grad(projection, base)
    h = 1e-6
    moved = base.detach().clone()
    moved[0, 2] = moved[2, 0] = h
    kept = torch.linalg.eigh(moved).eigenvectors[:, :2]
    assert_close(gradient[0, 2] + gradient[2, 0], (kept @ kept.T)[0, 2] / h, rtol=1e-4, atol=1e-8)
    (gradient,) = torch.autograd.grad(eigenpairs(base)[1].sum(), base)
    assert gradient.isfinite().all()


# ------------------------------------------------------------------------------------------------------- refusals


def refused(make: Callable[[], Any]) -> str:
    with pytest.raises(UsageError) as error:
        make()
    return str(error.value)


@pytest.mark.parametrize(("term", "option"), [(ModeSeeking, "mode_seeking"), (GDPP, "gdpp")])
def test_a_discriminator_has_nothing_to_learn_from_them(term: type[DiversityTerm], option: str) -> None:
    said = refused(lambda: Game(nn.Identity(), D(), priors.Normal(2), regularizers={option: term(1.0)}))
    assert said == (
        f"regularizer={option} is a term of the generator's loss and has no effect on the discriminator: choose "
        f"regularizer@generator_regularizer={option}."
    )


@pytest.mark.parametrize("discriminator", [nn.Linear(2, 1), nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))])
def test_a_discriminator_without_known_features_is_refused(discriminator: nn.Module) -> None:
    said = refused(lambda: game_of(GDPP(1.0), discriminator=discriminator))
    assert f"but {type(discriminator).__name__} has no `layers`, a torch.nn.Sequential whose last module" in said
    game_of(ModeSeeking(1.0), discriminator=discriminator)


@pytest.mark.parametrize("term", [ModeSeeking(1.0), GDPP(1.0)])
def test_one_sample_is_refused(term: DiversityTerm) -> None:
    game = game_of(term)
    real, fake = (Batch(*(None if t is None else t[:1] for t in batch)) for batch in batches(game))
    assert "compares the samples of a micro-batch, but one has only 1: give each at least 2" in refused(
        lambda: game.generator_terms(real, fake, 0)
    )


@pytest.mark.parametrize(
    ("term", "packing", "n", "batch_size", "steps", "accumulate"),
    [
        (ModeSeeking, 1, 9, 4, 1, 1),  # the last batch has one
        (GDPP, 1, 8, 4, 2, 2),  # as each micro-batch does
        (GDPP, 3, 9, 6, 1, 1),  # the last batch has one pack
        (GDPP, 3, 6, 3, 1, 1),
    ],
)
def test_batches_of_one_are_refused_before_training(
    term: type[DiversityTerm], packing: int, n: int, batch_size: int, steps: int, accumulate: int
) -> None:
    discriminator = D()
    discriminator.layers[0] = nn.Linear(2 * packing, 4)
    options = {"generator_regularizers": {"term": term(1.0)}, "packing": packing}
    game = Game(nn.Linear(3, 2), discriminator, priors.Normal(3), **options)
    gan = GAN(game, critic_steps=steps, accumulate_grad_batches=accumulate)
    before = [weight.clone() for weight in gan.parameters()]
    what = "samples" if packing == 1 else "packs of 3 samples"
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    trainer = lightning.Trainer(max_epochs=1, enable_checkpointing=False, **quiet)
    with pytest.raises(
        UsageError, match=f"compares the {what} of a micro-batch, .* each at least {2 * packing} samples"
    ):
        trainer.fit(gan, DataLoader(torch.randn(n, 2), batch_size))
    assert_close(list(gan.parameters()), before, rtol=0, atol=0)


def test_samples_of_one_pack_are_apart_for_mode_seeking() -> None:
    ModeSeeking(1.0).check_batch(3, packing=3)


def test_mode_seeking_leaves_d_in_half_precision() -> None:
    game = game_of(ModeSeeking(1.0))
    seen: list[torch.dtype] = []
    game.discriminator.layers[0].register_forward_hook(lambda *inputs: seen.append(inputs[2].dtype))
    real, fake = (Batch(*(None if t is None else t.float() for t in batch)) for batch in batches(game))
    game.float()
    with torch.autocast("cpu", torch.bfloat16):
        game.generator_terms(real, fake, 0)
    assert seen == [torch.bfloat16]


def test_conditions_that_no_two_samples_share_are_refused() -> None:
    game = game_of(ModeSeeking(1.0), conditional=True)
    real, fake = batches(game, torch.randn(N, 7))
    assert "conditions of shape (7,) per sample" in refused(lambda: game.generator_terms(real, fake, 0))
    overrides = ["data=mnist_edges", "game=pix2pix", "regularizer@generator_regularizer=mode_seeking"]
    config = composed(*overrides, "model.generator.width=4", "model.discriminator.width=4")
    assert "no two in a batch translate the same image" in refused(lambda: build_gan(config, (1, 28, 28), 0))


@pytest.mark.parametrize(
    ("model", "data", "options"),
    [
        ("points", "ring", ["model.conditional=true"]),
        ("mlp", "mnist", []),
        ("dcgan", "mnist", ["model.generator.width=4", "model.discriminator.width=4", "model.conditional=true"]),
        ("infogan", "mnist", ["model.discriminator.width=4", "game=infogan"]),
        ("resnet", "mnist", ["model.discriminator.width=4", "model.conditional=true"]),
        ("sn_resnet", "mnist", ["model.discriminator.width=8"]),
        ("r3gan", "mnist", []),
        ("pytorch_gan", "mnist", []),
        ("pacgan", "ring", []),
        ("pacgan_stacked", "stacked_mnist", []),
        ("sequence", "sines", []),
        ("goodfellow_mnist", "mnist", []),
        ("goodfellow_cifar10_conv", "cifar10", []),
    ],
)
def test_the_packages_discriminators_have_features(model: str, data: str, options: list[str]) -> None:
    """Of which the last layer makes the logit, in every game."""
    overrides = [f"model={model}", f"data={data}", "regularizer@generator_regularizer=[gdpp,mode_seeking]", *options]
    config = composed(*overrides)
    others = {"ring": (2,), "sines": (30, 1), "stacked_mnist": (3, 28, 28), "cifar10": (3, 32, 32)}
    shape, classes = others.get(data, (1, 28, 28)), {"ring": 8, "sines": 0, "stacked_mnist": 0}.get(data, 10)
    game = build_gan(config, shape, classes).game.eval()
    sample = Batch(torch.randn(4, *shape), torch.tensor([0, 1, 1, 0]))
    features = game.features(sample)
    assert features.shape[0] == 4
    assert features.shape[1] > 4
    if not game.is_conditional:
        last = game.discriminator.layers[-1]
        logits = last(features if model != "dcgan" else features[:, :, None, None]).reshape(4, -1)[:, 0]
        assert_close(logits, game.judge(sample))


def test_a_run_with_batches_of_one_is_refused_before_anything_is_written(configure: Configure, tmp_path: Path) -> None:
    options = ["model.packing=4", "data.batch_size=4", "regularizer@generator_regularizer=gdpp"]
    with pytest.raises(UsageError, match="the packs of 4 samples of a micro-batch, but one has only 1: give each"):
        train(configure("data=ring", *options), tmp_path / "run")
    assert not [path for path in tmp_path.rglob("*") if path.name in ("config.yaml", "samples")]
