"""Maxout as an explicit maximum of linear maps, and the paper's networks in shapes, sizes and first weights."""

import copy
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from gan_lightning.build import build_gan
from gan_lightning.config import check
from gan_lightning.networks.maxout import (
    ConvDiscriminator,
    ConvGenerator,
    Discriminator,
    Generator,
    MaxoutConv2d,
    MaxoutLinear,
)
from gan_lightning.rules import RULES

CIFAR = (3, 32, 32)
PAIRS = [
    *[
        (Generator(5, shape, [8, 9], ["relu", "sigmoid"]), Discriminator(shape, [6, 7], 3, init_range=0.3), shape)
        for shape in [(2,), (1, 28, 28), CIFAR]
    ],
    *[
        (ConvGenerator(5, shape, 2), ConvDiscriminator(shape, 2, units=6, pooling=pooling, init_range=0.2), shape)
        for shape in [CIFAR, (1, 32, 32)]
        for pooling in ("max", "mean")
    ],
]
# model, shape, parameters of each layer of G and D by hand
MODELS = [
    (
        "goodfellow_mnist",
        (1, 28, 28),
        [100 * 1200 + 1200, 1200 * 1200 + 1200, 1200 * 784 + 784],
        [784 * 240 * 5 + 240 * 5, 240 * 240 * 5 + 240 * 5, 240 + 1],
    ),
    (
        "goodfellow_cifar10_mlp",
        CIFAR,
        [100 * 8000 + 8000, 8000 * 8000 + 8000, 8000 * 3072 + 3072],
        [3072 * 1600 * 5 + 1600 * 5, 1600 * 1600 * 5 + 1600 * 5, 1600 + 1],
    ),
    (
        "goodfellow_cifar10_conv",
        CIFAR,
        [100 * 8000 + 8000, 8000 * 8000 + 8000, 80 * 3 * 5 * 5 + 3],
        [
            2 * 32 * (3 * 8 * 8 + 1),
            2 * 32 * (32 * 8 * 8 + 1),
            2 * 192 * (32 * 5 * 5 + 1),
            5 * 500 * (192 * 5 * 5 + 1),
            500 + 1,
        ],
    ),
]


def layers_of(network: nn.Module) -> list[nn.Module]:
    """The layers with weights, in order."""
    return [module for module in network.modules() if list(module.parameters(recurse=False))]


def sizes(network: nn.Module) -> list[int]:
    return [sum(p.numel() for p in layer.parameters()) for layer in layers_of(network)]


def label(value: object) -> str:
    return type(value).__name__ if isinstance(value, nn.Module) else str(value)


def pieces_of(layer: MaxoutLinear | MaxoutConv2d) -> tuple[Tensor, Tensor]:
    """Weights and biases with the pieces in front, (pieces, units, ...)."""
    weight = layer.weight.detach().view(layer.pieces, -1, *layer.weight.shape[1:])
    return weight, layer.bias.detach().view(layer.pieces, -1)


def explicit_maxout(layer: MaxoutLinear, x: Tensor) -> Tensor:
    weight, bias = pieces_of(layer)
    return torch.stack([torch.einsum("ni,ui->nu", x, w) + b for w, b in zip(weight, bias, strict=True)]).max(0).values


def explicit_maxout_conv(layer: MaxoutConv2d, x: Tensor, padding: int) -> Tensor:
    weight, bias = pieces_of(layer)
    maps = [functional.conv2d(x, w, b, padding=padding) for w, b in zip(weight, bias, strict=True)]
    return torch.stack(maps).max(0).values


# ------------------------------------------------------------------------------------------------ the two layers


@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_maxout_linear_is_the_maximum_of_linear_maps(pieces: int) -> None:
    layer = MaxoutLinear(4, 3, pieces).double()
    x = torch.randn(6, 4, dtype=torch.double)
    assert layer(x).shape == (6, 3)
    assert_close(layer(x).detach(), explicit_maxout(layer, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("pieces", "kernel_size", "padding"), [(1, 3, 0), (2, 8, 4), (3, 5, 3)])
def test_maxout_conv_is_the_maximum_of_convolutions(pieces: int, kernel_size: int, padding: int) -> None:
    layer = MaxoutConv2d(2, 4, pieces, kernel_size, padding).double()
    x = torch.randn(3, 2, 9, 9, dtype=torch.double)
    side = 9 + 2 * padding - kernel_size + 1
    assert layer(x).shape == (3, 4, side, side)
    assert_close(layer(x).detach(), explicit_maxout_conv(layer, x, padding), rtol=0, atol=1e-12)


def test_two_pieces_can_be_the_absolute_value() -> None:
    """|x| = max(x, -x) (Goodfellow et al. 2013, figure 1)."""
    layer = MaxoutLinear(1, 1, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        layer.bias.zero_()
    x = torch.linspace(-2, 2, 9)[:, None]
    assert_close(layer(x).detach(), x.abs(), rtol=0, atol=0)


def test_only_the_winning_piece_learns() -> None:
    layer = MaxoutLinear(4, 3, 5)
    x = torch.randn(1, 4)
    layer(x).sum().backward()
    weight, bias = pieces_of(layer)
    winner = (torch.einsum("i,pui->pu", x[0], weight) + bias).argmax(0)
    slope = layer.weight.grad.view(5, 3, 4)
    expected = torch.zeros(5, 3, 4)
    expected[winner, torch.arange(3)] = x[0]
    assert_close(slope, expected, rtol=0, atol=0)


# ----------------------------------------------------------------------------------------------------- the pairs


@pytest.mark.parametrize(("generator", "discriminator", "shape"), PAIRS, ids=label)
def test_shapes_and_gradients(generator: nn.Module, discriminator: nn.Module, shape: tuple[int, ...]) -> None:
    samples = generator(torch.randn(3, 5))
    assert samples.shape == (3, *shape)
    assert discriminator(samples).shape == (3,)
    assert discriminator(samples[:1]).shape == (1,)
    discriminator(samples).sum().backward()
    assert all(p.grad is not None for p in [*generator.parameters(), *discriminator.parameters()])


@pytest.mark.parametrize(("generator", "discriminator", "shape"), PAIRS, ids=label)
def test_a_logit_belongs_to_its_sample(generator: nn.Module, discriminator: nn.Module, shape: tuple[int, ...]) -> None:
    network, images = copy.deepcopy(discriminator).double(), torch.randn(4, *shape, dtype=torch.double)
    logits = network(images)
    assert_close(network(images.flip(0)), logits.flip(0), rtol=0, atol=1e-12)
    assert logits.std() > 1e-6


def test_generator_by_hand() -> None:
    net = Generator(3, (1, 2, 2), [6, 5], ["relu", "sigmoid"], init_range=1.0, output_range=1.0).double()
    z = torch.randn(7, 3, dtype=torch.double)
    (w1, b1), (w2, b2), (w3, b3) = [(layer.weight.detach(), layer.bias.detach()) for layer in layers_of(net)]
    h = (z @ w1.T + b1).clamp(min=0)
    h = 1 / (1 + (-(h @ w2.T + b2)).exp())
    expected = (h @ w3.T + b3).tanh().view(7, 1, 2, 2)
    assert_close(net(z).detach(), expected, rtol=0, atol=1e-12)


def test_discriminator_by_hand() -> None:
    net = Discriminator((1, 2, 3), [6, 5], 4, init_range=1.0).double()
    x = torch.randn(7, 1, 2, 3, dtype=torch.double)
    first, second, last = layers_of(net)
    h = explicit_maxout(second, explicit_maxout(first, x.reshape(7, 6)))
    expected = h @ last.weight.detach()[0] + last.bias.detach()
    assert_close(net(x).detach(), expected, rtol=0, atol=1e-12)


def transposed_convolution(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """Every input pixel paints its kernel, stride pixels apart."""
    kernel = weight.shape[2]
    side = (x.shape[2] - 1) * stride + kernel
    out = bias[:, None, None].repeat(len(x), 1, side, side).reshape(len(x), len(bias), side, side)
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            patch = torch.einsum("nc,cokl->nokl", x[:, :, i, j], weight)
            out[:, :, i * stride : i * stride + kernel, j * stride : j * stride + kernel] += patch
    return out


def test_conv_generator_by_hand() -> None:
    net = ConvGenerator(3, CIFAR, 2, init_range=0.5).double()
    z = torch.randn(4, 3, dtype=torch.double)
    (w1, b1), (w2, b2), (w3, b3) = [(layer.weight.detach(), layer.bias.detach()) for layer in layers_of(net)]
    h = torch.sigmoid((z @ w1.T + b1).clamp(min=0) @ w2.T + b2).view(4, 2, 10, 10)
    expected = transposed_convolution(h, w3, b3, 3)
    assert expected.shape == (4, 3, 32, 32)
    assert_close(net(z).detach(), expected.tanh(), rtol=0, atol=1e-12)


def pooled(x: Tensor, window: int, pooling: str) -> Tensor:
    """Window by window, 2 apart: the maximum, with those that the border cuts, or the mean, without them."""
    rounded = math.ceil if pooling == "max" else math.floor
    starts = [2 * i for i in range(1 + rounded((x.shape[2] - window) / 2))]
    reduce = Tensor.amax if pooling == "max" else Tensor.mean
    rows = [torch.stack([reduce(x[:, :, i : i + window, j : j + window], (2, 3)) for j in starts], -1) for i in starts]
    return torch.stack(rows, -2)


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_conv_discriminator_by_hand(pooling: str) -> None:
    net = ConvDiscriminator(CIFAR, 2, units=6, pooling=pooling, init_range=0.2).double()
    x = torch.randn(3, *CIFAR, dtype=torch.double)
    *convolutions, dense, last = layers_of(net)
    h = x
    for layer, padding, window in zip(convolutions, (4, 3, 3), (4, 4, 2), strict=True):
        h = pooled(explicit_maxout_conv(layer, h, padding), window, pooling)
    expected = explicit_maxout(dense, h.flatten(1)) @ last.weight.detach()[0] + last.bias.detach()
    assert_close(net(x).detach(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("pooling", "sides"), [("max", [33, 16, 15, 7, 9, 5]), ("mean", [33, 15, 14, 6, 8, 4])])
def test_sides_of_the_maps(pooling: str, sides: list[int]) -> None:
    """33 and 15 are also the partial sums, which divide the side of the maps, that the paper's configuration names."""
    net, found = ConvDiscriminator(CIFAR, 2, units=3, pooling=pooling), []
    for module in net.layers:
        if isinstance(module, MaxoutConv2d | nn.MaxPool2d | nn.AvgPool2d):
            module.register_forward_hook(lambda m, i, out: found.append(out.shape[2:]))
    net(torch.zeros(1, *CIFAR))
    assert found == [(side, side) for side in sides]


@pytest.mark.parametrize("make", [ConvGenerator, ConvDiscriminator])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 64), (3, 32, 28), (2,), (32, 32)])
def test_convolutions_refuse_other_shapes(make: type[nn.Module], shape: tuple[int, ...]) -> None:
    options = {"latent_size": 5} if make is ConvGenerator else {}
    with pytest.raises(ValueError, match="goodfellow_cifar10_conv makes images of 32 x 32 pixels") as error:
        make(sample_shape=shape, **options)
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("hidden", [["relu"], ["relu", "relu", "relu"], ["relu", "swish"]])
def test_hidden_layers_want_a_known_function_each(hidden: list[str]) -> None:
    for make in (lambda: Generator(5, (2,), [3, 3], hidden), lambda: ConvGenerator(5, CIFAR, 1, hidden)):
        with pytest.raises(ValueError, match="one of relu, sigmoid, tanh for each of the 2 hidden layers"):
            make()


@pytest.mark.parametrize(("output", "low", "high"), [("tanh", -1, 1), ("sigmoid", 0, 1)])
def test_output_covers_its_range(output: str, low: int, high: int) -> None:
    z = 1e4 * torch.randn(16, 5)
    images = Generator(5, (1, 4, 4), [8], ["relu"], output)(z)
    assert (images.min(), images.max()) == (low, high)
    images = ConvGenerator(5, CIFAR, 4, output=output, init_range=50.0)(z)
    assert (images.min(), images.max()) == (low, high)


def test_identity_output_has_no_range() -> None:
    z = 1e4 * torch.randn(16, 5)
    assert Generator(5, (1, 4, 4), [8], ["relu"], "identity")(z).abs().max() > 10
    assert ConvGenerator(5, CIFAR, 4, output="identity", init_range=5.0)(z).abs().max() > 10


def test_unknown_output_is_refused() -> None:
    with pytest.raises(ValueError, match="'linearly'"):
        Generator(5, (2,), [3], ["relu"], "linearly")


# ------------------------------------------------------------------------------------------------- first weights


@pytest.mark.parametrize(
    ("make", "bounds"),
    [
        (lambda: Generator(20, (1, 8, 8), [40, 40], ["relu", "relu"]), [0.05, 0.05, 0.05]),
        (
            lambda: Generator(20, CIFAR, [40, 40], ["relu", "sigmoid"], init_range=0.3, output_range=0.5),
            [0.3, 0.3, 0.5],
        ),
        (lambda: Discriminator((1, 8, 8), [40, 40]), [0.005, 0.005, 0.005]),
        (lambda: Discriminator((1, 8, 8), [300], init_range=0.7), [0.7, 0.7]),
        (lambda: ConvGenerator(20, CIFAR, 10), [0.05, 0.05, 0.05]),
        (lambda: ConvDiscriminator(CIFAR, 4), [0.005] * 5),
    ],
)
def test_weights_start_uniform_and_biases_at_zero(make: Callable[[], nn.Module], bounds: list[float]) -> None:
    """Within the bounds, mean and variance those of U(-bound, bound) within 5 standard errors."""
    for layer, bound in zip(layers_of(make()), bounds, strict=True):
        weight, n = layer.weight.detach(), layer.weight.numel()
        assert layer.bias.abs().max() == 0
        assert weight.abs().max() <= bound
        assert abs(weight.mean()) < 5 * bound / math.sqrt(3 * n)
        assert weight.var().item() == pytest.approx(bound**2 / 3, rel=5 * math.sqrt(0.8 / n))


# ------------------------------------------------------------------------------------------------------- dropout


def dropouts(network: nn.Module) -> list[float]:
    return [module.p for module in network.modules() if isinstance(module, nn.Dropout)]


@pytest.mark.parametrize(
    ("make", "hidden"),
    [(lambda **o: Discriminator(CIFAR, [8, 8], **o), 2), (lambda **o: ConvDiscriminator(CIFAR, 2, **o), 4)],
)
def test_dropout_before_every_layer_of_d_in_training(make: Callable[..., nn.Module], hidden: int) -> None:
    net, x = make(keep_input=0.8, keep_hidden=0.5, init_range=0.5), torch.randn(4, *CIFAR)
    assert dropouts(net) == pytest.approx([0.2] + [0.5] * hidden)
    assert (net(x) != net(x)).all()
    net.eval()
    assert_close(net(x), net(x), rtol=0, atol=0)
    without = make()
    without.load_state_dict(net.state_dict())  # the same keys with dropout and without
    assert dropouts(without) == []
    assert_close(without(x), net(x), rtol=0, atol=0)


def test_dropout_keeps_the_shares_and_the_mean() -> None:
    """With first weights of one a maxout unit sums its inputs: pixels of one, kept with probability .8, times 1/.8."""
    net = Discriminator((1000,), [1], 1, keep_input=0.8)
    nn.init.ones_(layers_of(net)[0].weight)
    sums = net.layers[1](net.layers[0](torch.ones(2000, 1000)))
    assert sums.mean().item() == pytest.approx(1000, abs=5 * math.sqrt(1000 * 0.25 / 2000))
    assert sums.var().item() == pytest.approx(1000 * 0.2 / 0.8, rel=0.2)


def test_no_dropout_in_generators() -> None:
    for generator, _, _ in PAIRS:
        assert dropouts(generator) == []


# -------------------------------------------------------------------------------------------- the paper's systems


@pytest.mark.parametrize(("model", "shape", "generator", "discriminator"), MODELS, ids=[row[0] for row in MODELS])
def test_the_papers_networks_in_parameters(
    configure: Callable[..., DictConfig],
    model: str,
    shape: tuple[int, ...],
    generator: list[int],
    discriminator: list[int],
) -> None:
    config = configure(f"model={model}", "data=cifar10", "model.ema_decay=0")
    check(config, {"model": model, "data": "cifar10"})
    with torch.device("meta"):  # without memory for 90 million weights
        gan = build_gan(config, shape, 0)
        assert gan.game.generator(torch.zeros(2, 100)).shape == (2, *shape)
        assert gan.game.discriminator(torch.zeros(2, *shape)).shape == (2,)
    assert sizes(gan.game.generator) == generator
    assert sizes(gan.game.discriminator) == discriminator
    assert dropouts(gan.game.discriminator) == pytest.approx([0.2] + [0.5] * (len(discriminator) - 1))


def test_totals() -> None:
    """The sums once more, so that a slip in a row above shows."""
    totals = [(sum(generator), sum(discriminator)) for _, _, generator, discriminator in MODELS]
    assert totals == [(2_503_984, 1_231_441), (89_395_072, 37_393_601), (64_822_003, 12_454_073)]


@pytest.mark.parametrize(
    ("option", "good", "bad"),
    [
        ("keep_input", [0.5, 1, 1.0], [0, 1.1, -0.5]),
        ("keep_hidden", [0.5, 1], [0.0, 2]),
        ("pieces", [1, 5], [0, 1.5]),
        ("unit_pieces", [1], [0]),
        ("units", [500], [0]),
        ("init_range", [0.05], [0, -1]),
        ("output_range", [0.5], [0]),
        ("pooling", ["max", "mean"], ["sum"]),
        ("decay", [1, 1.000004], [0.99]),
        ("min_lr", [1e-6], [0]),
        ("final_momentum", [0, 0.7], [1]),
        ("saturate", [1, 125000], [0]),
    ],
)
def test_options_are_checked(option: str, good: list[Any], bad: list[Any]) -> None:
    fits, _ = RULES[option]
    assert all(map(fits, good))
    assert not any(map(fits, bad))


def test_widths_follow_each_other() -> None:
    """Every layer takes what the one before gives."""
    net = Discriminator((3, 2), [7, 5, 4], 2)
    shapes = [tuple(layer.weight.shape) for layer in layers_of(net)]
    assert shapes == [(2 * after, before) for before, after in pairwise([6, 7, 5, 4])] + [(1, 4)]
