"""Published networks by their papers' tables: counts of weights worked out by hand, and what starts them."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from gan_lightning.errors import UsageError
from gan_lightning.networks import lucic, pacgan, pytorch_gan, sn_resnet


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_pacgans_networks_for_points() -> None:
    """Lin et al. 2018, section 4.1: four layers of 400 without biases, their BatchNorm; three maxout layers of 200."""
    g = pacgan.Generator(2, (2,))
    assert parameters(g) == 2 * 400 + 3 * 400 * 400 + 4 * 2 * 400 + (400 * 2 + 2) == 484_802
    for m in (1, 2, 3, 4):
        d = pacgan.Discriminator((2 * m,))
        assert parameters(d) == (2 * m + 1) * 1000 + 2 * 201 * 1000 + 201
    assert [(norm.eps, norm.momentum) for norm in g.modules() if isinstance(norm, nn.BatchNorm1d)] == [(1e-4, 0.05)] * 4
    for network in (g, d):
        linear = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
        assert torch.cat([layer.weight.flatten() for layer in linear]).std().item() == pytest.approx(0.02, rel=0.02)
        assert all(layer.bias is None or not layer.bias.any() for layer in linear)


@pytest.mark.parametrize("side", [28, 32])
def test_pacgans_networks_for_stacked_mnist(side: int) -> None:
    """Table 3: maps of 64-32-16-8, and 2-4-8 of the discriminator, both with BatchNorm's two weights a map."""
    shape = (3, side, side)
    g, d = pacgan.StackedGenerator(256, shape), pacgan.StackedDiscriminator(shape)
    convolutions = sum(9 * a * b + b for a, b in ((64, 32), (32, 16), (16, 8), (8, 3)))
    assert parameters(g) == 257 * 1024 + convolutions + 2 * (64 + 32 + 16 + 8) == 287_875
    assert parameters(d) == sum(9 * a * b + b for a, b in ((3, 2), (2, 4), (4, 8))) + 2 * 14 + (8 * 16 + 1) == 585
    assert parameters(pacgan.StackedDiscriminator((6, side, side))) == 585 + 9 * 3 * 2
    samples = g(torch.randn(5, 256))
    assert samples.shape == (5, *shape)
    assert samples.abs().max() <= 1
    assert d(samples).shape == (5,)


@pytest.mark.parametrize("shape", [(3, 64, 64), (2,), (1, 28, 32)])
def test_other_samples_are_refused(shape: tuple[int, ...]) -> None:
    for make in (lambda: pacgan.StackedGenerator(256, shape), lambda: pacgan.StackedDiscriminator(shape)):
        with pytest.raises(UsageError, match=r"model=pacgan_stacked makes images of 28 or 32 pixels"):
            make()


def test_the_residual_networks_of_spectral_normalization() -> None:
    """Miyato et al. 2018, table 4."""

    def conv(a: int, b: int, kernel: int = 3) -> int:
        return kernel**2 * a * b + b

    g, d = sn_resnet.Generator(128, (3, 32, 32)), sn_resnet.Discriminator((3, 32, 32))
    up = 2 * (conv(256, 256) + 2 * 256) + conv(256, 256, 1)
    assert parameters(g) == 129 * 4096 + 3 * up + 2 * 256 + conv(256, 3) == 4_276_739
    first = conv(3, 128) + conv(128, 128) + conv(3, 128, 1)
    same = 2 * conv(128, 128)
    assert parameters(d) == first + (same + conv(128, 128, 1)) + 2 * same + 129 == 1_053_825


def test_residual_blocks_by_hand() -> None:
    x = torch.randn(2, 3, 8, 8, dtype=torch.double)
    for block, halves, starts_linear in (
        (sn_resnet.same(3).double(), False, False),
        (sn_resnet.down(3).double(), True, False),
        (sn_resnet.first(3, 3).double(), True, True),
    ):
        convolutions = [layer for layer in block.branch if isinstance(layer, nn.Conv2d)]
        one, two = ((layer.weight, layer.bias) for layer in convolutions)
        hidden = functional.conv2d(x if starts_linear else x.relu(), *one, padding=1)
        branch, shortcut = functional.conv2d(hidden.relu(), *two, padding=1), x
        if halves:
            point = next(layer for layer in block.shortcut if isinstance(layer, nn.Conv2d))
            branch = functional.avg_pool2d(branch, 2)
            shortcut = functional.conv2d(functional.avg_pool2d(x, 2), point.weight, point.bias)  # the order is the same
        assert_close(block(x), shortcut + branch)
    up = sn_resnet.up(3).double().eval()
    halved = functional.avg_pool2d(up(x), 2)
    assert up(x).shape == (2, 3, 16, 16)
    assert_close(up.shortcut(x)[:, :, ::2, ::2], up.shortcut(x)[:, :, 1::2, 1::2])
    assert halved.shape == x.shape


def test_residual_branches_start_wider() -> None:
    d = sn_resnet.Discriminator((3, 32, 32))
    branch, shortcut = d.layers[1].branch[1].weight, d.layers[1].shortcut[0].weight
    assert branch.abs().max().item() == pytest.approx(math.sqrt(2) * math.sqrt(6 / (2 * 9 * 128)), rel=1e-3)
    assert shortcut.abs().max().item() == pytest.approx(math.sqrt(6 / 256), rel=1e-3)


def test_the_generator_of_pytorch_gan() -> None:
    """Layers of 128, 256, 512 and 1024, BatchNorm after all but the first, whose epsilon is large."""
    g = pytorch_gan.Generator(100, (1, 28, 28), [128, 256, 512, 1024])
    layers = 101 * 128 + 129 * 256 + 257 * 512 + 513 * 1024 + 1025 * 784
    assert parameters(g) == layers + 2 * (256 + 512 + 1024) == 1_510_032
    norms = [layer for layer in g.modules() if isinstance(layer, nn.BatchNorm1d)]
    assert [(norm.num_features, norm.eps) for norm in norms] == [(256, 0.8), (512, 0.8), (1024, 0.8)]
    samples = g(torch.randn(5, 100))
    assert samples.shape == (5, 1, 28, 28)
    assert samples.abs().max() <= 1


def test_infogans_networks_as_lucic_et_al_had_them() -> None:
    """compare_gan v1.0, gans/abstract_gan.py and ops.py; its biases before BatchNorm are left out."""
    g, d = lucic.Generator(64, (1, 28, 28)), lucic.Discriminator((1, 28, 28))
    norms = 2 * (1024 + 6272 + 64)
    assert parameters(g) == 64 * 1024 + 1024 * 6272 + 16 * 128 * 64 + (16 * 64 + 1) + norms
    assert parameters(d) == 17 * 64 + 16 * 64 * 128 + 6272 * 1024 + 1025 + 2 * (128 + 1024)
    for network in (g, d):
        weights = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
        assert all(m.weight.std().item() == pytest.approx(0.02, rel=0.15) for m in weights)
        assert all(m.weight.abs().max() <= 0.04 for m in weights if isinstance(m, nn.Conv2d))
        assert max(m.weight.abs().max().item() for m in weights if not isinstance(m, nn.Conv2d)) > 0.06
        assert not any(m.bias.any() for m in weights if m.bias is not None)
        batch_norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
        assert {(m.eps, m.momentum) for m in batch_norms} == {(1e-3, 1e-3)}
        slopes = [m.negative_slope for m in network.modules() if isinstance(m, nn.LeakyReLU)]
        assert slopes == [0.2] * 3
        assert not any(isinstance(m, nn.ReLU) for m in network.modules())
    for seed in range(8):  # torch 2.11 draws infinite values for truncated normals without bounds
        torch.manual_seed(seed)
        assert all(weight.isfinite().all() for weight in lucic.Generator(64, (1, 28, 28)).parameters())
    samples = g(torch.rand(8, 64) * 2 - 1)
    assert samples.shape == (8, 1, 28, 28)
    assert 0 < samples.min() < samples.max() < 1
