"""Spectral normalization: singular values by an exact decomposition, and the option on whole networks."""

from collections.abc import Callable

import pytest
import torch
from helpers import GivenData, fit, small_gan
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.testing import assert_close

from gan_lightning.batch import Batch
from gan_lightning.build import build_gan
from gan_lightning.errors import UsageError
from gan_lightning.gan import GAN
from gan_lightning.networks.spectral import LAYERS, spectrally_normalized
from gan_lightning.regularizers import R1
from gan_lightning.rehearsal import check_networks

Configure = Callable[..., DictConfig]
KINDS = [
    (nn.Linear(7, 5), (3, 7)),
    (nn.Conv2d(3, 6, 3), (2, 3, 5, 5)),
    (nn.ConvTranspose2d(4, 3, 4, 2, 1), (2, 4, 3, 3)),
    (nn.Conv1d(2, 5, 3), (2, 2, 9)),
    (nn.Embedding(6, 4), None),
]


def matrix(layer: nn.Module) -> Tensor:
    """The weight as a matrix of (outputs, all else)."""
    weight = layer.weight.detach()
    return (weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight).flatten(1)


@pytest.mark.parametrize(("layer", "shape"), KINDS, ids=lambda value: type(value).__name__)
def test_the_largest_singular_value_is_one(layer: nn.Module, shape: tuple[int, ...] | None) -> None:
    layer = layer.double()
    original = matrix(layer)
    spectrally_normalized(layer)
    x = torch.arange(6) if shape is None else torch.randn(shape, dtype=torch.double)
    for _ in range(500):
        layer(x)
    layer.eval()
    assert torch.linalg.svdvals(matrix(layer))[0].item() == pytest.approx(1.0, abs=1e-10)
    assert_close(matrix(layer), original / torch.linalg.svdvals(original)[0], rtol=0, atol=1e-10)


def test_what_is_normalized() -> None:
    """Not BatchNorm, nor what is normalized already; a weight of zeros has a direction afterwards."""
    own = nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2))
    zeros = nn.Conv2d(2, 2, 1)
    nn.init.zeros_(zeros.weight)
    network = spectrally_normalized(nn.Sequential(own, nn.BatchNorm1d(2), zeros))
    assert [is_parametrized(layer, "weight") for layer in network] == [True, False, True]
    assert len(own.parametrizations.weight) == 1
    assert torch.linalg.svdvals(zeros.weight.detach().flatten(1))[0].item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("model", ["mlp", "dcgan", "resnet", "infogan", "points"])
@pytest.mark.parametrize("conditioning", [[], ["model.conditional=true"]], ids=["", "conditional"])
def test_the_option_normalizes_every_layer_of_d_and_none_of_g(
    configure: Configure, model: str, conditioning: list[str]
) -> None:
    narrow = {name: ["model.generator.width=4", "model.discriminator.width=4"] for name in ("dcgan", "resnet")}
    narrow["infogan"] = [*narrow["dcgan"], "model.generator.units=4", "model.discriminator.units=4"]
    narrow["mlp"] = narrow["points"] = ["model.generator.widths=[4]", "model.discriminator.widths=[4]"]
    options = [f"model={model}", "data=mnist", *narrow[model], *conditioning]
    gan = build_gan(configure(*options, "model.spectral_norm=true"), (1, 28, 28), 10)
    layers = [layer for layer in gan.game.discriminator.modules() if isinstance(layer, LAYERS)]
    assert layers
    assert all(is_parametrized(layer, "weight") for layer in layers)
    assert not any(is_parametrized(layer) for layer in gan.game.generator.modules())
    y = torch.arange(4) if conditioning else None
    with torch.autocast("cpu", torch.bfloat16):
        assert gan.game.judge(Batch(torch.randn(4, 1, 28, 28), y)).isfinite().all()


def test_a_model_may_choose_it(configure: Configure) -> None:
    assert configure("model=sn_resnet", "data=cifar10").model.spectral_norm is True
    assert configure("model=resnet", "data=cifar10").model.spectral_norm is False


def normalized_gan() -> GAN:
    d = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))
    return small_gan(discriminator=spectrally_normalized(d), regularizers=[R1(0.3)])


def test_training_keeps_the_layers_normalized_through_double_backward() -> None:
    """The penalty's gradient in the weights behind the normalization, against central differences."""
    gan = normalized_gan()
    data = torch.randn(60, 6, 2, dtype=torch.double)
    fit(gan, GivenData(data, 6), 60)
    game = gan.game.eval()  # no iteration between two evaluations
    for layer in (game.discriminator[0], game.discriminator[2]):
        assert torch.linalg.svdvals(layer.weight.detach())[0].item() == pytest.approx(1.0, abs=0.05)
    weight = game.discriminator[0].parametrizations.weight.original

    def penalty() -> Tensor:
        return game.discriminator_terms(Batch(data[0]), Batch(data[1]), 0).losses["r1"]

    slope = torch.autograd.grad(penalty(), weight)[0][0, 0]
    weight.data[0, 0] += 1e-5
    above = penalty()
    weight.data[0, 0] -= 2e-5
    assert_close(slope, (above - penalty()).detach() / 2e-5, rtol=1e-5, atol=1e-10)


def test_it_cannot_be_compiled() -> None:
    with pytest.raises(UsageError, match=r"cannot be compiled: leave out trainer\.compile\.$"):
        normalized_gan().game.compile_networks()


def test_other_parametrizations_may_be_compiled() -> None:
    gan = small_gan()
    torch.nn.utils.parametrizations.weight_norm(gan.game.discriminator[0])
    gan.game.compile_networks()
    assert gan.game.is_compiled


def test_the_rehearsal_leaves_the_singular_vectors_alone() -> None:
    gan = normalized_gan()
    before = {name: value.clone() for name, value in gan.state_dict().items()}
    check_networks(gan, GivenData(torch.zeros(1, 4, 2), 4))
    assert_close(gan.state_dict(), before, rtol=0, atol=0)


def test_a_network_that_cannot_be_normalized_is_refused() -> None:
    with pytest.raises(UsageError, match=r"normalizes linear, convolutional and embedding layers, but .* has none"):
        spectrally_normalized(nn.Sequential(nn.BatchNorm1d(2), nn.Flatten()))
    other = nn.Sequential(nn.Linear(2, 3), nn.utils.parametrizations.weight_norm(nn.Linear(3, 1)))
    with pytest.raises(UsageError, match=r"cannot normalize the layer 1 of the discriminator, whose weight has"):
        spectrally_normalized(other)
    twice = spectrally_normalized(nn.Sequential(nn.Linear(2, 3)))
    assert spectrally_normalized(twice)[0].parametrizations.weight.__len__() == 1
