"""R3GAN's networks: their size and outputs beside the released code's, and computed once more from the paper."""

import math
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, leaky_relu
from torch.testing import assert_close

from gan_lightning.errors import UsageError
from gan_lightning.networks import resnet
from gan_lightning.networks.r3gan import Discriminator, Downsampling, Generator, Upsampling

K, N = 3, 4
Y = torch.tensor([2, 0, 1, 2])
SHAPE = (3, 16, 16)
WIDTHS, CARDINALITIES = [6, 6, 4], [3, 2, 4]
PUBLISHED = [768, 768, 768, 768], [96, 96, 96, 96]


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def small(kind: type[nn.Module], **options: object) -> nn.Module:
    """A network of three stages in float64 whose every weight counts, also those that begin at 0."""
    torch.manual_seed(0)
    latents, order = ({"latent_size": 5}, 1) if kind is Generator else ({}, -1)
    given = {"sample_shape": SHAPE, "widths": WIDTHS[::order], "cardinalities": CARDINALITIES[::order]}
    network = kind(**latents, **given, **options).double()
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.3)
    return network


def block(x: Tensor, weights: Iterator[Tensor], cardinality: int) -> Tensor:
    first, bias1, second, bias2, third = (next(weights) for _ in range(5))
    h = leaky_relu(conv2d(x, first) + bias1[:, None, None], 0.2)
    h = leaky_relu(conv2d(h, second, padding=1, groups=cardinality) + bias2[:, None, None], 0.2)
    return x + conv2d(h, third)


def twice(x: Tensor, dim: int) -> Tensor:
    """[1, 3, 3, 1]/4 of the pixels with zeros between them: each is followed by itself, nearer to its neighbors."""
    zero = torch.zeros_like(x.narrow(dim, 0, 1))
    before = torch.cat([zero, x.narrow(dim, 0, x.shape[dim] - 1)], dim)
    after = torch.cat([x.narrow(dim, 1, x.shape[dim] - 1), zero], dim)
    return torch.stack([(before + 3 * x) / 4, (3 * x + after) / 4], dim + 1).flatten(dim, dim + 1)


def half(x: Tensor, dim: int) -> Tensor:
    """[1, 3, 3, 1]/8 around every second gap between pixels."""
    zero = torch.zeros_like(x.narrow(dim, 0, 1))
    first, second = x.unflatten(dim, (-1, 2)).unbind(dim + 1)
    before = torch.cat([zero, second.narrow(dim, 0, second.shape[dim] - 1)], dim)
    after = torch.cat([first.narrow(dim, 1, first.shape[dim] - 1), zero], dim)
    return (before + 3 * first + 3 * second + after) / 8


def generator_by_hand(net: nn.Module, z: Tensor, y: Tensor | None, blocks: int) -> Tensor:
    weights = iter(net.layers.parameters())
    z = z if y is None else torch.cat([z, net.condition.weight[y]], 1)
    x = (z @ net.weights.weight.T)[:, :, None, None] * net.maps
    for stage, (width, cardinality) in enumerate(zip(WIDTHS, CARDINALITIES, strict=True)):
        if stage:
            x = x if width == x.shape[1] else conv2d(x, next(weights))
            x = twice(twice(x, 2), 3)
        for _ in range(blocks):
            x = block(x, weights, cardinality)
    return conv2d(x, next(weights))


def discriminator_by_hand(net: nn.Module, x: Tensor, y: Tensor | None, blocks: int) -> Tensor:
    weights = iter(net.layers.parameters())
    x = conv2d(x, next(weights))
    for stage, (width, cardinality) in enumerate(zip(WIDTHS[::-1], CARDINALITIES[::-1], strict=True)):
        if stage:
            x = half(half(x, 2), 3)
            x = x if width == x.shape[1] else conv2d(x, next(weights))
        for _ in range(blocks):
            x = block(x, weights, cardinality)
    features = (x * next(weights)[:, 0]).sum((2, 3)) @ next(weights).T
    return features[:, 0] if y is None else (features * net.condition.weight[y]).sum(1)


@pytest.mark.parametrize("y", [None, Y], ids=["unconditional", "conditional"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_both_networks_by_hand(y: Tensor | None, blocks: int) -> None:
    options = {"blocks": blocks, "classes": K, "conditional": y is not None}
    generator, critic = small(Generator, **options), small(Discriminator, **options)
    z = 20 * torch.randn(N, 5, dtype=torch.double)
    samples = generator(z, y)
    assert samples.shape == (N, *SHAPE)
    assert samples.abs().max() > 1  # nothing bounds them
    assert_close(samples, generator_by_hand(generator, z, y, blocks), rtol=0, atol=1e-10)
    logits = critic(samples, y)
    assert logits.shape == (N,)
    assert logits.std() > 0
    assert_close(logits, discriminator_by_hand(critic, samples, y, blocks), rtol=0, atol=1e-10)


def wave(*shape: int, step: float, phase: int = 0) -> Tensor:
    return torch.cos(step * torch.arange(math.prod(shape), dtype=torch.double) + phase).view(shape)


# with every weight of these networks, in their order, a wave, and copied into those of the released code; computed in
# float64 by the reference operators of R3GAN/Networks.py,
# github.com/brownvc/R3GAN at 19a7ddf: four pixels of three samples, and three logits
RELEASED: dict[bool, tuple[list[list[float]], list[float]]] = {
    False: (
        [
            [-0.12040956850226328, -0.32767469111247616, -0.32823703220099343, -0.32501375487658457],
            [-0.11795547833232835, -0.3187065755140775, -0.3208351060922989, -0.3193503329517658],
            [-0.1130444411249488, -0.29511440634343045, -0.29587917736844976, -0.3002456347704604],
        ],
        [-0.020704881986549864, -0.02042547506256645, -0.020247819313748486],
    ),
    True: (
        [
            [0.06001770546626731, 0.07952339843248094, 0.08178453460508489, 0.07889673028217993],
            [0.059099423880260085, 0.07575512139013046, 0.0772694570690864, 0.07491341909026579],
            [0.05720352727125795, 0.0686965232333, 0.06896850021266969, 0.06790786825513881],
        ],
        [-0.004633022243816582, -0.0027699527933991623, 0.0018878467887152323],
    ),
}


@pytest.mark.parametrize("conditional", RELEASED)
def test_with_the_same_weights_they_give_the_outputs_of_the_released_code(conditional: bool) -> None:
    widths, cardinalities, y = [12, 12, 8, 4], [6, 4, 4, 2], torch.tensor([1, 4, 9]) if conditional else None
    given = {"classes": 10, "conditional": conditional}
    generator = Generator(5, (3, 32, 32), widths, cardinalities, **given).double()
    critic = Discriminator((3, 32, 32), widths[::-1], cardinalities[::-1], **given).double()
    for network in (generator, critic):
        for k, weight in enumerate(network.parameters()):
            weight.data = 0.3 * wave(*weight.shape, step=0.37, phase=k)
    samples, logits = generator(3 * wave(3, 5, step=0.11), y), critic(wave(3, 3, 32, 32, step=0.11), y)
    expected = [torch.tensor(values, dtype=torch.double) for values in RELEASED[conditional]]
    assert_close([samples[:, 1, 7, ::9], logits], expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("shape", "widths", "cardinalities", "classes", "sizes"),
    [
        ((3, 32, 32), *PUBLISHED, 0, (20_732_160, 20_683_776)),
        ((3, 32, 32), *PUBLISHED, 10, (20_781_952, 21_280_512)),
        ((3, 64, 64), [*PUBLISHED[0], 384], [*PUBLISHED[1], 48], 0, (22_429_824, 22_381_440)),
    ],
    ids=["32 pixels", "CIFAR-10 by class", "FFHQ-64"],
)
def test_they_are_as_large_as_the_released_ones(
    shape: tuple[int, ...], widths: Sequence[int], cardinalities: Sequence[int], classes: int, sizes: tuple[int, int]
) -> None:
    """Counted in G and D of R3GAN/Networks.py with train.py's presets, github.com/brownvc/R3GAN at 19a7ddf."""
    given = {"classes": classes, "conditional": classes > 0}
    with torch.device("meta"):
        generator = Generator(64, shape, widths, cardinalities, **given)
        critic = Discriminator(shape, widths[::-1], cardinalities[::-1], **given)
    assert (parameters(generator), parameters(critic)) == sizes


@pytest.mark.parametrize("kind", [Generator, Discriminator])
def test_they_start_as_published(kind: type[nn.Module]) -> None:
    """Blocks are the identity, what is joined keeps the variance; a deviation's standard error is sigma/sqrt(2n)."""
    torch.manual_seed(0)
    options = {"sample_shape": SHAPE, "widths": [128] * 3, "cardinalities": [16] * 3, "classes": 100}
    network = kind(**({"latent_size": 64} if kind is Generator else {}), **options, conditional=True)
    blocks = [module for module in network.modules() if isinstance(module, resnet.Block)]
    gain = math.sqrt(2 / (1 + 0.2**2)) / 6**0.25
    expected = [(block.layers[0].weight, gain / math.sqrt(128)) for block in blocks]
    expected += [(block.layers[2].weight, gain / math.sqrt(16 * 9)) for block in blocks]
    if kind is Generator:
        expected += [(network.maps, 1.0), (network.weights.weight, 1 / math.sqrt(128))]
        expected += [(network.layers[-1].weight, 1 / math.sqrt(128)), (network.condition.weight, 0.1)]
    else:
        basis, linear = network.layers[-3].weight, network.layers[-1].weight
        expected += [(network.layers[0].weight, 1 / math.sqrt(3)), (basis, 1 / 4), (linear, 1 / math.sqrt(128))]
        expected += [(network.condition.weight, 0.1 / math.sqrt(128))]
    assert len(blocks) == 6
    for weight, sigma in expected:
        assert weight.std().item() == pytest.approx(sigma, rel=4 / math.sqrt(2 * weight.numel()))
    others = {id(weight) for weight, _ in expected}
    assert all(weight.abs().max() == 0 for weight in network.parameters() if id(weight) not in others)


def test_resampling_is_that_of_a_line_and_halving_is_the_transpose_of_doubling() -> None:
    x, y = torch.randn(2, 3, 4, 4, dtype=torch.double), torch.randn(2, 3, 8, 8, dtype=torch.double)
    up, down = Upsampling().double(), Downsampling().double()
    assert_close((up(x) * y).sum(), 4 * (x * down(y)).sum())
    inner = up(torch.ones(1, 1, 6, 6, dtype=torch.double))[..., 1:-1, 1:-1]
    assert_close(inner, torch.ones_like(inner))
    assert not Upsampling().state_dict()


def test_a_samples_logit_is_its_own_and_twice_differentiable() -> None:
    critic, x = small(Discriminator), torch.randn(N, *SHAPE, dtype=torch.double, requires_grad=True)
    logits = critic(x)
    assert_close(torch.cat([critic(one[None]) for one in x]), logits)
    (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert all(weight.grad is not None for name, weight in critic.named_parameters() if not name.endswith("bias"))


def test_further_outputs_of_a_discriminator_follow_its_logit() -> None:
    """Those of games that want them, by class or not."""
    x = torch.randn(N, *SHAPE, dtype=torch.double)
    for y in (None, Y):
        options = {"classes": K, "conditional": y is not None}
        critic, plain = small(Discriminator, outputs=3, **options), small(Discriminator, **options)
        state = critic.state_dict()
        last = list(state)[-1]
        plain.load_state_dict(state | {last: state[last][: plain.layers[-1].out_features]})
        assert critic(x, y).shape == (N, 3)
        assert_close(critic(x, y)[:, 0], plain(x, y))
        assert_close(critic(x, y)[:, 1:], critic.layers(x)[:, -2:])


def test_weights_of_classes_mix_them() -> None:
    generator = small(Generator, classes=K, conditional=True)
    z = torch.randn(N, 5, dtype=torch.double)
    assert_close(generator(z, nn.functional.one_hot(Y, K).double()), generator(z, Y))


@pytest.mark.parametrize(
    ("shape", "widths", "cardinalities", "says"),
    [
        ((3, 7, 64), [8] * 4, [2] * 4, r"widths of 4 stages halves images 3 times, but .* of shape \(3, 7, 64\): give"),
        ((2,), [8] * 4, [2] * 4, r"model=r3gan makes images, but the data has samples of shape \(2,\)"),
        ((3, 4, 4), [], [], "widths of 0 stages"),
        ((3, 16, 16), [8] * 3, [2], "has 3 widths and 1 cardinalities: give one for each stage"),
        ((3, 16, 16), [8] * 3, [2, 3, 2], "cannot split 16 channels, twice a width of 8, into 3 equal groups"),
    ],
)
def test_stages_that_do_not_fit_are_refused(
    shape: tuple[int, ...], widths: list[int], cardinalities: list[int], says: str
) -> None:
    for kind, latents in ((Generator, (5,)), (Discriminator, ())):
        with pytest.raises(UsageError, match=says) as error:
            kind(*latents, shape, widths, cardinalities)
        assert "model=r3gan" in str(error.value)


def test_classes_are_needed() -> None:
    for kind in (Generator, Discriminator):
        with pytest.raises(UsageError, match=r"model\.conditional is true, but the data has no classes"):
            small(kind, conditional=True)
