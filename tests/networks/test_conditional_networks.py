"""Networks that take classes, against the papers' formulas in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from gan_lightning.errors import UsageError
from gan_lightning.networks import dcgan, infogan, mlp, resnet
from gan_lightning.networks.conditional import ClassEmbedding, ConditionalBatchNorm, LayersByClass

K, N = 4, 6
Y = torch.tensor([3, 0, 1, 1, 2, 3])
IMAGE = (1, 28, 28)
GIVEN = {"classes": K, "conditional": True}
GENERATORS: dict[str, Callable[..., nn.Module]] = {
    "points": lambda **o: mlp.Generator(5, (2,), [8], batch_norm=False, **o),
    "mlp": lambda **o: mlp.Generator(5, IMAGE, [8, 9], **o),
    "dcgan": lambda **o: dcgan.Generator(5, IMAGE, 4, **o),
    "resnet": lambda **o: resnet.Generator(5, IMAGE, 4, **o),
    "infogan": lambda **o: infogan.Generator(5, IMAGE, 4, 8, **o),
}
DISCRIMINATORS: dict[str, Callable[..., nn.Module]] = {
    "points": lambda **o: mlp.Discriminator((2,), [8], **o),
    "mlp": lambda **o: mlp.Discriminator(IMAGE, [9, 8], **o),
    "dcgan": lambda **o: dcgan.Discriminator(IMAGE, 4, **o),
    "resnet": lambda **o: resnet.Discriminator(IMAGE, 4, **o),
    "infogan": lambda **o: infogan.Discriminator(IMAGE, 4, 8, **o),
}


def double(make: Callable[..., nn.Module], **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return make(**options).double()


def samples(name: str) -> Tensor:
    shape = (2,) if name == "points" else IMAGE
    return torch.randn(N, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.double)


@pytest.mark.parametrize(("name", "make"), [*GENERATORS.items(), *DISCRIMINATORS.items()])
def test_data_with_classes_change_nothing_of_unconditional_networks(name: str, make: Callable[..., nn.Module]) -> None:
    plain, given = double(make).state_dict(), double(make, classes=K).state_dict()
    assert list(plain) == list(given)
    assert all(torch.equal(plain[key], given[key]) for key in plain)
    assert not any("condition" in key for key in plain)
    assert make().conditional is False


@pytest.mark.parametrize("name", DISCRIMINATORS)
@pytest.mark.parametrize("outputs", [1, 3])
def test_projection_adds_the_inner_product_of_class_and_features(name: str, outputs: int) -> None:
    critic = double(DISCRIMINATORS[name], **GIVEN, outputs=outputs)
    critic.load_state_dict(double(DISCRIMINATORS[name], outputs=outputs).state_dict(), strict=False)
    plain, x, features = double(DISCRIMINATORS[name], outputs=outputs), samples(name), []
    expected = plain(x).reshape(N, -1)
    assert_close(critic(x, Y).reshape(N, -1), expected)  # the class's vectors begin at 0
    nn.init.normal_(critic.condition.weight)
    critic.layers[-1].register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].flatten(1)))
    found = critic(x, Y)
    products = torch.stack([critic.condition.weight[k] @ phi for k, phi in zip(Y, features[0], strict=True)])
    assert_close(found.reshape(N, -1)[:, 0], expected[:, 0] + products)
    assert_close(found.reshape(N, -1)[:, 1:], expected[:, 1:])
    assert found.shape == ((N,) if outputs == 1 else (N, outputs))


def test_joined_classes_are_further_features_or_a_channel() -> None:
    critic = double(DISCRIMINATORS["mlp"], **GIVEN, conditioning="joined")
    x, e = samples("mlp"), critic.condition.weight[Y]
    assert_close(critic(x, Y), critic.layers(torch.cat([x.flatten(1), e], 1)).squeeze(1))
    for name in ("dcgan", "resnet", "infogan"):
        critic = double(DISCRIMINATORS[name], **GIVEN, conditioning="joined")
        channel = critic.condition.weight[Y].view(N, 1, 28, 28)
        assert_close(critic(x, Y), critic.layers(torch.cat([x, channel], 1)).flatten(1).squeeze(1))


def test_generators_join_the_class_to_the_latents() -> None:
    z = torch.randn(N, 5, dtype=torch.double)
    for name in GENERATORS:
        generator = double(GENERATORS[name], **GIVEN)
        joined = torch.cat([z, generator.condition.weight[Y]], 1)
        if name == "dcgan":
            expected = generator.layers(joined[:, :, None, None])
        elif name == "resnet":
            expected = generator.layers(generator.weights(joined)[:, :, None, None] * generator.maps)
        else:
            expected = generator.layers(joined)
        assert_close(generator(z, Y), expected.view(N, *((2,) if name == "points" else IMAGE)))


@pytest.mark.parametrize("shape", [(N, 3), (N, 3, 4, 5)])
def test_batch_norm_by_class_by_hand(shape: tuple[int, ...]) -> None:
    """In training by the batch's moments over all classes, in evaluation by the running ones."""
    norm = ConditionalBatchNorm(nn.BatchNorm2d(3) if len(shape) == 4 else nn.BatchNorm1d(3), K).double()
    assert (norm.scale.weight == 1).all()
    assert (norm.shift.weight == 0).all()
    nn.init.normal_(norm.scale.weight)
    nn.init.normal_(norm.shift.weight)
    x = torch.randn(shape, dtype=torch.double) + 2
    others = (0, *range(2, len(shape)))
    mean, variance = x.mean(others), x.var(others, correction=0)

    def by_hand(mean: Tensor, variance: Tensor) -> Tensor:
        rows = [
            (norm.scale.weight[k] * (row.movedim(0, -1) - mean) / (variance + 1e-5).sqrt() + norm.shift.weight[k])
            for k, row in zip(Y, x, strict=True)
        ]
        return torch.stack(rows).movedim(-1, 1)

    assert_close(norm(x, Y), by_hand(mean, variance))
    n = x.numel() / 3
    running = 0.1 * mean, 0.9 + 0.1 * variance * n / (n - 1)
    assert_close(norm.eval()(x, Y), by_hand(*running))


@pytest.mark.parametrize("name", ["mlp", "dcgan", "infogan"])
def test_every_batch_norm_is_by_class_where_asked(name: str) -> None:
    generator = double(GENERATORS[name], **GIVEN, conditional_norm=True)
    assert not [layer for layer in generator.layers if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]
    plain = double(GENERATORS[name], **GIVEN)
    norms = [layer for layer in plain.layers if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]
    found = [layer for layer in generator.layers if isinstance(layer, ConditionalBatchNorm)]
    assert len(found) == len(norms) == (3 if name == "infogan" else 2)
    z = torch.randn(N, 5, dtype=torch.double)
    before = generator(z, Y)
    nn.init.constant_(found[-1].shift.weight[2], 3.0)
    changed = (generator(z, Y) - before).flatten(1).abs().amax(1) > 1e-3
    assert changed.tolist() == (Y == 2).tolist()


@pytest.mark.parametrize("name", GENERATORS)
def test_weights_of_classes_mix_them(name: str) -> None:
    options = {"conditional_norm": True} if name in ("mlp", "dcgan", "infogan") else {}
    generator, z = double(GENERATORS[name], **GIVEN, **options).eval(), torch.randn(N, 5, dtype=torch.double)
    one_hot = functional.one_hot(Y, K).double()
    assert_close(generator(z, one_hot), generator(z, Y))
    table = ClassEmbedding(K, 3)
    assert_close(table(torch.tensor([[0.25, 0, 0.75, 0]])), (0.25 * table.weight[0] + 0.75 * table.weight[2])[None])


def test_classes_are_needed() -> None:
    for make in (*GENERATORS.values(), *DISCRIMINATORS.values()):
        with pytest.raises(UsageError, match=r"model\.conditional is true, but the data has no classes"):
            make(conditional=True)
    with pytest.raises(UsageError, match="conditional_norm is true, but the generator has no BatchNorm"):
        mlp.Generator(5, (2,), [8], batch_norm=False, conditional_norm=True, **GIVEN)
    assert isinstance(mlp.Generator(5, (2,), [8], conditional_norm=True, **GIVEN).layers, LayersByClass)
