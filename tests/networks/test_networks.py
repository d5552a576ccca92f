"""The networks' shapes, sizes and layers, by hand."""

import math
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from gan_lightning.errors import UsageError
from gan_lightning.networks import (
    dcgan,
    infogan,
    linear,
    lucic,
    mlp,
    pacgan,
    pix2pix,
    pytorch_gan,
    r3gan,
    resnet,
    sn_resnet,
)
from gan_lightning.networks.pyramid import Pyramid, pyramid

POINTS = [(1,), (2,)]
IMAGES = [(1, 28, 28), (1, 32, 32), (3, 32, 32), (1, 64, 64), (3, 64, 64), (3, 28, 28)]
PAIRS = [
    *[(linear.Generator(5, shape), linear.Discriminator(shape), shape) for shape in POINTS + IMAGES],
    *[(mlp.Generator(5, shape, [8, 9]), mlp.Discriminator(shape, [9, 8]), shape) for shape in POINTS + IMAGES],
    *[(dcgan.Generator(5, shape, 4), dcgan.Discriminator(shape, 4), shape) for shape in IMAGES],
    *[(dcgan.Generator(5, s, 4, batch_norm=False), dcgan.Discriminator(s, 4, batch_norm=False), s) for s in IMAGES[:1]],
    *[(pytorch_gan.Generator(5, shape, [8, 9]), mlp.Discriminator(shape, [9, 8]), shape) for shape in IMAGES[:1]],
    *[(resnet.Generator(5, shape, 4), resnet.Discriminator(shape, 4), shape) for shape in IMAGES],
    *[(sn_resnet.Generator(5, shape, 4), sn_resnet.Discriminator(shape, 4), shape) for shape in IMAGES],
    *[(pacgan.Generator(5, shape, 8), pacgan.Discriminator(shape, 8), shape) for shape in POINTS],
    *[(infogan.Generator(5, shape, 4, 8), infogan.Discriminator(shape, 4, 8), shape) for shape in IMAGES],
    *[(lucic.Generator(5, shape, 4, 8), lucic.Discriminator(shape, 4, 8), shape) for shape in IMAGES[:1]],
]
TUTORIAL = {"latent_size": 64, "sample_shape": (1, 28, 28), "widths": [128, 256, 512, 1024]}


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def label(value: object) -> str:
    return value.__module__.rsplit(".")[-1] if isinstance(value, nn.Module) else str(value)


@pytest.mark.parametrize(("generator", "discriminator", "shape"), PAIRS, ids=label)
def test_shapes(generator: nn.Module, discriminator: nn.Module, shape: tuple[int, ...]) -> None:
    samples = generator(torch.randn(3, 5))
    assert samples.shape == (3, *shape)
    assert discriminator(samples).shape == (3,)
    discriminator(samples).sum().backward()
    assert all(p.grad is not None for p in [*generator.parameters(), *discriminator.parameters()])


@pytest.mark.parametrize(("generator", "discriminator", "shape"), PAIRS, ids=label)
def test_one_sample_is_still_a_batch(generator: nn.Module, discriminator: nn.Module, shape: tuple[int, ...]) -> None:
    assert discriminator.eval()(generator.eval()(torch.randn(1, 5))).shape == (1,)


@pytest.mark.parametrize(("generator", "discriminator", "shape"), PAIRS, ids=label)
def test_a_logit_belongs_to_its_sample(generator: nn.Module, discriminator: nn.Module, shape: tuple[int, ...]) -> None:
    images = torch.randn(4, *shape)
    logits = discriminator.eval()(images)
    assert_close(discriminator(images.flip(0)), logits.flip(0))
    assert logits.std() > 0


def test_linear_is_affine() -> None:
    net, z = linear.Generator(4, (1, 2, 3)).double(), torch.randn(5, 4, dtype=torch.double)
    expected = (z @ net.layer.weight.T + net.layer.bias).view(5, 1, 2, 3)
    assert_close(net(z), expected, rtol=0, atol=1e-12)
    critic = linear.Discriminator((1, 2, 3)).double()
    logits = torch.stack([(critic.layer.weight[0] * x.flatten()).sum() + critic.layer.bias[0] for x in expected])
    assert_close(critic(expected), logits, rtol=0, atol=1e-12)


def test_linear_sizes() -> None:
    assert parameters(linear.Generator(10, (1, 28, 28))) == 10 * 784 + 784
    assert parameters(linear.Discriminator((2,))) == 3


def test_tutorials_generator_in_parameters() -> None:
    layers = [64 * 128 + 128, 128 * 256 + 256, 256 * 512 + 512, 512 * 1024 + 1024, 1024 * 784 + 784]
    norms = 2 * (128 + 256 + 512 + 1024)
    assert parameters(mlp.Generator(**TUTORIAL)) == sum(layers) + norms == 1_505_680
    assert parameters(mlp.Generator(**TUTORIAL, batch_norm=False)) == sum(layers)


def test_tutorials_discriminator_in_parameters() -> None:
    layers = [784 * 512 + 512, 512 * 256 + 256, 256 * 128 + 128, 128 + 1]
    assert parameters(mlp.Discriminator((1, 28, 28), [512, 256, 128])) == sum(layers) == 566_273


def generator_by_hand(z: Tensor, state: dict[str, Tensor], blocks: int, stride: int) -> Tensor:
    """Linear (BatchNorm) ReLU blocks and a linear layer, from the state of a network with `stride` layers a block."""
    for layer in range(0, blocks * stride, stride):
        z = z @ state[f"layers.{layer}.weight"].T + state[f"layers.{layer}.bias"]
        if stride == 3:
            # normalized by the batch's mean and biased variance
            z = (z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt()
            z = z * state[f"layers.{layer + 1}.weight"] + state[f"layers.{layer + 1}.bias"]
        z = z.clamp(min=0)
    last = blocks * stride
    return z @ state[f"layers.{last}.weight"].T + state[f"layers.{last}.bias"]


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("shape", [(2,), (1, 2, 2)])
def test_mlp_generator_by_hand(shape: tuple[int, ...], batch_norm: bool) -> None:
    net = mlp.Generator(3, shape, [6, 5], batch_norm).double()
    z = torch.randn(7, 3, dtype=torch.double)
    state = {name: value.detach().clone() for name, value in net.state_dict().items()}
    expected = generator_by_hand(z, state, blocks=2, stride=3 if batch_norm else 2)
    expected = expected.tanh() if len(shape) == 3 else expected
    assert_close(net(z).detach(), expected.view(7, *shape), rtol=0, atol=1e-12)


@pytest.mark.parametrize("slope", [0.2, 0.01])
def test_mlp_discriminator_by_hand(slope: float) -> None:
    net = mlp.Discriminator((1, 2, 3), [6, 5], slope).double()
    x = torch.randn(7, 1, 2, 3, dtype=torch.double)
    state, h = net.state_dict(), x.reshape(7, 6)
    for layer in (0, 2):
        h = h @ state[f"layers.{layer}.weight"].T + state[f"layers.{layer}.bias"]
        h = torch.where(h > 0, h, slope * h)
    expected = h @ state["layers.4.weight"][0] + state["layers.4.bias"]
    assert_close(net(x).detach(), expected, rtol=0, atol=1e-12)


def test_mlp_without_hidden_layers_is_linear() -> None:
    assert parameters(mlp.Generator(4, (2,), [])) == parameters(linear.Generator(4, (2,)))
    assert parameters(mlp.Discriminator((2,), [])) == parameters(linear.Discriminator((2,)))


def test_images_stay_in_range_and_points_do_not() -> None:
    """Latents this large drive every output layer to its ends."""
    z = 1e4 * torch.randn(16, 5)
    for net in (
        mlp.Generator(5, (1, 28, 28), [8], batch_norm=False),
        dcgan.Generator(5, (1, 28, 28), 4).eval(),
        infogan.Generator(5, (1, 28, 28), 4, 8).eval(),
        resnet.Generator(5, (1, 28, 28), 4),
    ):
        assert net(z).abs().max() <= 1
    assert mlp.Generator(5, (1, 28, 28), [8], batch_norm=False)(z).abs().max() > 0.99
    for net in (mlp.Generator(5, (2,), [8], batch_norm=False), linear.Generator(5, (2,))):
        assert net(z).abs().max() > 10


@pytest.mark.parametrize(
    "network",
    [mlp.Generator(**TUTORIAL), dcgan.Generator(8, (1, 28, 28), 4), dcgan.Discriminator((3, 64, 64), 4)],
    ids=label,
)
def test_batch_norm_has_its_default_momentum_and_eps(network: nn.Module) -> None:
    """A second positional argument of BatchNorm is eps, not momentum."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert norms
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.1, 1e-5)}


def test_batch_norm_only_where_asked() -> None:
    assert not any(isinstance(m, nn.BatchNorm1d) for m in mlp.Generator(**TUTORIAL, batch_norm=False).modules())
    # the gradient penalty needs a critic that treats samples one by one
    assert not any(isinstance(m, nn.BatchNorm1d) for m in mlp.Discriminator((2,), [8]).modules())


def test_dcgan_in_parameters() -> None:
    generator = [100 * 128 * 7 * 7, 2 * 128, 128 * 64 * 4 * 4, 2 * 64, 64 * 1 * 4 * 4 + 1]
    assert parameters(dcgan.Generator(100, (1, 28, 28))) == sum(generator)
    discriminator = [1 * 64 * 4 * 4 + 64, 64 * 128 * 4 * 4, 2 * 128, 128 * 7 * 7 + 1]
    assert parameters(dcgan.Discriminator((1, 28, 28))) == sum(discriminator)


def test_dcgan_without_batch_norm_has_biases_and_pytorchs_own_weights() -> None:
    networks = (
        dcgan.Generator(9, (1, 28, 28), 8, batch_norm=False),
        dcgan.Discriminator((1, 28, 28), 8, batch_norm=False),
    )
    for network in networks:
        layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
        assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
        for layer in layers:
            assert layer.bias is not None
            # U(-b, b), b = 1 / sqrt(inputs), for which PyTorch takes a transposed convolution's outputs
            inputs = layer.weight[0].numel()
            assert layer.weight.abs().max().item() == pytest.approx(1 / math.sqrt(inputs), rel=0.05)
        assert parameters(network) == sum(layer.weight.numel() + len(layer.bias) for layer in layers)


def test_infogan_in_parameters() -> None:
    """Chen et al. 2016, table 1, without the biases before BatchNorm."""
    generator = [74 * 1024, 2 * 1024, 1024 * 6272, 2 * 6272, 128 * 64 * 16, 2 * 64, 64 * 16 + 1]
    assert parameters(infogan.Generator(74, (1, 28, 28))) == sum(generator)
    body = [64 * 16 + 64, 64 * 128 * 16, 2 * 128, 6272 * 1024, 2 * 1024]
    posterior = [1024 * 128, 2 * 128, 129 * 12]
    assert parameters(infogan.Discriminator((1, 28, 28))) == sum(body) + 1025
    assert parameters(infogan.Discriminator((1, 28, 28), outputs=13)) == sum(body) + 1025 + sum(posterior)


def test_the_first_of_infogans_outputs_is_the_logit() -> None:
    net = infogan.Discriminator((1, 28, 28), 4, 8, outputs=13, output_units=6).eval()
    images = torch.randn(5, 1, 28, 28)
    outputs = net(images)
    assert outputs.shape == (5, 13)
    net.layers[-1].others = None
    assert torch.equal(net(images), outputs[:, 0])


def test_dcgan_of_64_pixels_is_that_of_the_paper() -> None:
    """4 x 4 maps of 8 widths, doubled four times (Radford et al. 2015, figure 1, with half its 1024 channels)."""
    weights = [m.weight for m in dcgan.Generator(100, (3, 64, 64)).modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [tuple(w.shape) for w in weights] == [
        (100, 512, 4, 4),
        (512, 256, 4, 4),
        (256, 128, 4, 4),
        (128, 64, 4, 4),
        (64, 3, 4, 4),
    ]
    weights = [m.weight for m in dcgan.Discriminator((3, 64, 64)).modules() if isinstance(m, nn.Conv2d)]
    assert [tuple(w.shape) for w in weights] == [
        (64, 3, 4, 4),
        (128, 64, 4, 4),
        (256, 128, 4, 4),
        (512, 256, 4, 4),
        (1, 512, 4, 4),
    ]


def test_dcgan_discriminator_by_hand() -> None:
    net = dcgan.Discriminator((1, 28, 28), 3).double()
    x = torch.randn(4, 1, 28, 28, dtype=torch.double)
    state = net.state_dict()
    h = functional.conv2d(x, state["layers.0.weight"], state["layers.0.bias"], stride=2, padding=1)
    h = torch.where(h > 0, h, 0.2 * h)
    h = functional.conv2d(h, state["layers.2.weight"], stride=2, padding=1)
    mean, variance = h.mean((0, 2, 3), keepdim=True), h.var((0, 2, 3), unbiased=False, keepdim=True)
    scale, shift = (state[f"layers.3.{name}"][:, None, None] for name in ("weight", "bias"))
    h = (h - mean) / (variance + 1e-5).sqrt() * scale + shift
    h = torch.where(h > 0, h, 0.2 * h)
    expected = (h * state["layers.5.weight"]).sum((1, 2, 3)) + state["layers.5.bias"]
    assert_close(net(x).detach(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("network", [dcgan.Generator(100, (1, 32, 32)), dcgan.Discriminator((1, 32, 32))], ids=label)
def test_dcgan_starts_small(network: nn.Module) -> None:
    """Weights from N(0, .02^2), BatchNorm's from N(1, .02^2): mean and deviation within 4 standard errors."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
            mean, n = float(isinstance(module, nn.BatchNorm2d)), module.weight.numel()
            assert abs(module.weight.mean().item() - mean) < 4 * 0.02 / math.sqrt(n)
            assert abs(module.weight.std().item() - 0.02) < 4 * 0.02 / math.sqrt(2 * (n - 1))
        if isinstance(module, nn.BatchNorm2d):
            assert module.bias.abs().max() == 0


def name_of(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


@pytest.mark.parametrize("module", [dcgan, resnet, infogan, sn_resnet], ids=name_of)
@pytest.mark.parametrize("shape", [(2,), (28, 28)])
def test_convolutions_refuse_what_are_no_images(module: ModuleType, shape: tuple[int, ...]) -> None:
    for make in (lambda: module.Generator(8, shape), lambda: module.Discriminator(shape)):
        with pytest.raises(UsageError, match=f"model={name_of(module)} makes images, but the data has") as error:
            make()
        assert str(shape) in str(error.value)


SHAPES = [(3, 96, 96), (1, 128, 128), (3, 256, 64), (2, 100, 100), (4, 96, 64), (2, 17, 9), (1, 4, 4), (3, 1, 6)]


@pytest.mark.parametrize("module", [dcgan, resnet, sn_resnet, infogan], ids=name_of)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_images_of_any_shape(module: ModuleType, shape: tuple[int, ...]) -> None:
    """With a class joined to them too, which has the shape that the images have before they are padded."""
    few = {"width": 2} | ({"units": 4} if module is infogan else {})
    generator, critic = module.Generator(5, shape, **few), module.Discriminator(shape, **few)
    samples = generator(torch.randn(2, 5))
    assert samples.shape == (2, *shape)
    assert critic(samples).shape == (2,)
    critic(samples).sum().backward()
    assert all(p.grad is not None for p in [*generator.parameters(), *critic.parameters()])
    if module is not sn_resnet:
        for conditioning in ("projection", "joined"):
            of_classes = module.Discriminator(shape, **few, classes=3, conditional=True, conditioning=conditioning)
            assert of_classes(samples, torch.tensor([2, 0])).shape == (2,)


@pytest.mark.parametrize("shape", [(3, 256, 64), (2, 50, 100), (1, 9, 17)], ids=str)
def test_translation_keeps_any_shape(shape: tuple[int, ...]) -> None:
    y = torch.randn(2, *shape)
    samples = pix2pix.Generator(shape, 2)(torch.zeros(2, 1), y)
    assert samples.shape == y.shape
    patches = math.ceil(shape[1] / 4) * math.ceil(shape[2] / 4)
    assert pix2pix.Discriminator(shape, 2)(samples, y).shape == (2 * patches,)


@pytest.mark.parametrize("shape", [(3, 96, 96), (3, 256, 64), (2, 100, 100), (4, 28, 30)], ids=str)
def test_published_stages_make_any_shape(shape: tuple[int, ...]) -> None:
    """Of four stages the smallest map has an eighth of the sides, rounded up."""
    generator, critic = r3gan.Generator(5, shape, [2] * 4, [1] * 4, 1), r3gan.Discriminator(shape, [2] * 4, [1] * 4, 1)
    assert generator.maps.shape == (2, math.ceil(shape[1] / 8), math.ceil(shape[2] / 8))
    samples = generator(torch.randn(2, 5))
    assert samples.shape == (2, *shape)
    assert critic(samples).shape == (2,)


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ((28, 28), (7, 7, 2, (0, 0, 0, 0))),
        ((32, 32), (4, 4, 3, (0, 0, 0, 0))),
        ((64, 64), (4, 4, 4, (0, 0, 0, 0))),
        ((96, 96), (6, 6, 4, (0, 0, 0, 0))),
        ((128, 128), (4, 4, 5, (0, 0, 0, 0))),
        ((256, 64), (16, 4, 4, (0, 0, 0, 0))),
        ((100, 100), (7, 7, 4, (6, 6, 6, 6))),
        ((63, 65), (8, 9, 3, (3, 4, 0, 1))),
        ((4, 4), (2, 2, 1, (0, 0, 0, 0))),
        ((1, 6), (1, 3, 1, (0, 0, 0, 1))),
    ],
)
def test_the_smallest_map_of_each_shape(sides: tuple[int, int], expected: tuple[object, ...]) -> None:
    assert pyramid("dcgan", (3, *sides)) == Pyramid(*expected)  # type: ignore[arg-type]


def test_the_last_map_is_cropped_at_its_center_and_images_are_padded_with_zeros() -> None:
    generator, critic = dcgan.Generator(5, (2, 100, 100), 2).eval(), dcgan.Discriminator((2, 100, 100), 2).eval()
    z = torch.randn(3, 5)
    whole = generator.layers[:-1](z[:, :, None, None])
    assert whole.shape == (3, 2, 112, 112)
    assert torch.equal(generator(z), whole[:, :, 6:106, 6:106])
    images = torch.randn(3, 2, 100, 100)
    padded = torch.zeros(3, 2, 112, 112)
    padded[:, :, 6:106, 6:106] = images
    assert torch.equal(critic(images), critic.layers[1:](padded).flatten())


def test_channels_end_at_those_of_64_pixels() -> None:
    with torch.device("meta"):
        widest = [
            max(
                layer.weight.shape[0]
                for layer in module.Discriminator((3, n, n), 4).modules()
                if hasattr(layer, "weight")
            )
            for module in (dcgan, resnet)
            for n in (64, 256)
        ]
    assert widest == [8 * 4, 8 * 4, 2 * 16 * 4, 2 * 16 * 4]  # of resnet's inner convolutions, twice as many


def test_a_residual_block_by_hand() -> None:
    block, x = resnet.Block(24).double(), torch.randn(2, 24, 5, 5, dtype=torch.double)
    state = block.state_dict()
    first, last = (state[f"layers.{layer}.weight"][:, :, 0, 0] for layer in (0, 4))
    h = torch.einsum("oc,ncyx->noyx", first, x) + state["layers.0.bias"][:, None, None]
    h = torch.where(h > 0, h, 0.2 * h)
    groups, grouped = [slice(i, i + 16) for i in (0, 16, 32)], state["layers.2.weight"]
    h = torch.cat([functional.conv2d(h[:, group], grouped[group], padding=1) for group in groups], 1)
    h = h + state["layers.2.bias"][:, None, None]
    h = torch.where(h > 0, h, 0.2 * h)
    assert_close(block(x).detach(), x + torch.einsum("oc,ncyx->noyx", last, h), rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [lambda: resnet.Generator(64, (3, 32, 32)), lambda: resnet.Discriminator((3, 32, 32))])
def test_residual_networks_start_as_fixup_says(make: Callable[[], nn.Module]) -> None:
    """Blocks are the identity; a deviation's standard error is sigma/sqrt(2n), and n thousands."""
    network = make()
    blocks = [module for module in network.modules() if isinstance(module, resnet.Block)]
    assert len(blocks) == 4
    for block in blocks:
        channels = block.layers[4].out_channels
        x = torch.randn(2, channels, 4, 4)
        assert torch.equal(block(x), x)
        first, second = block.layers[0].weight, block.layers[2].weight
        for weight, inputs in ((first, channels), (second, 16 * 9)):
            sigma = math.sqrt(2 / (1 + 0.2**2) / inputs) / 4**0.25
            assert weight.std().item() == pytest.approx(sigma, rel=4 / math.sqrt(2 * weight.numel()))
    linear = network.weights if isinstance(network, resnet.Generator) else network.layers[-1]
    assert linear.weight.std().item() == pytest.approx(
        linear.in_features**-0.5, rel=4 / math.sqrt(2 * linear.weight.numel())
    )


def test_residual_networks_have_no_batch_statistics() -> None:
    """R1 is exact only for critics that treat samples one by one, in training too."""
    images, critic = torch.randn(4, 1, 28, 28), resnet.Discriminator((1, 28, 28), 4).train()
    assert_close(torch.cat([critic(image[None]) for image in images]), critic(images))
    generator, z = resnet.Generator(5, (1, 28, 28), 4).train(), torch.randn(4, 5)
    assert_close(torch.cat([generator(one[None]) for one in z]), generator(z))
