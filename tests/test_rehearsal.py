"""What networks cannot be trained with is found before training, and looking for it changes nothing."""

import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import GivenData, fit, small_gan
from torch import Tensor, nn

from gan_lightning.augment import ADA, Augment, DiffAugment
from gan_lightning.batch import Batch
from gan_lightning.errors import UsageError
from gan_lightning.game import Game
from gan_lightning.losses import LeastSquares
from gan_lightning.networks import infogan
from gan_lightning.optim import cosine
from gan_lightning.rehearsal import check_networks, check_optimizers, ends_in_sigmoid

ON_CPU = SimpleNamespace(root_device=torch.device("cpu"))


def data(batch_size: int = 4) -> GivenData:
    return GivenData(torch.zeros(1, batch_size, 2), batch_size)


def checked(batch_size: int = 4, **options: Any) -> None:
    check_networks(small_gan(**options), data(batch_size))


def discriminator(*end: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1), *end)


def test_good_networks_pass() -> None:
    checked()
    checked(discriminator=discriminator(nn.Flatten(0)))
    checked(discriminator=nn.Linear(2, 3))  # a logit and two more
    checked(1)


class _Of(nn.Module):
    """A linear D of a view of its input."""

    def __init__(self, view: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.view = view
        self.layer = nn.Linear(view(torch.zeros(4, 2)).shape[1], 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.view(x))


class _Unpacked(Game):
    """Reads samples, not packs."""

    def read(self, sample: Batch) -> Tensor:
        return self.discriminator(sample.x)


class _Pair(nn.Linear):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(x), x


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"discriminator": nn.Sequential(nn.Linear(2, 3), nn.Flatten(0))}, r"gives \(12,\), but \(4,\), one logit"),
    ({"discriminator": nn.Sequential(nn.Linear(2, 2), nn.Unflatten(1, (1, 2)))}, r"gives \(4, 1, 2\), but"),
    ({"discriminator": _Of(lambda x: x.view(-1, 4))}, r"gives \(2, 1\), but \(4,\), one logit"),
    ({"discriminator": _Of(lambda x: x[:1])}, r"gives \(1, 1\), but \(4,\), one logit"),
    (
        {"discriminator": nn.Linear(2, 1), "packing": 2, "game": _Unpacked},
        r"but \(2,\), one logit per pack of 2",
    ),
    ({"generator": _Pair(3, 2)}, r"model\.generator returns a tuple: return one tensor of samples, \(4, 2\)"),
    ({"discriminator": nn.Identity()}, "The discriminator has no weights that require gradients"),
    ({"generator": nn.Linear(3, 2).requires_grad_(False)}, "The generator has no weights that require gradients"),
    ({"generator": nn.Linear(3, 5)}, r"makes samples of shape \(4, 5\), but the data's have shape \(4, 2\)"),
    ({"discriminator": discriminator(nn.Sigmoid(), nn.Flatten(0))}, "ends in a sigmoid"),
    ({"discriminator": discriminator(nn.Flatten(0), nn.Sigmoid())}, "ends in a sigmoid"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED)
def test_others_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        checked(**options)


def test_a_weight_of_both_players_is_refused() -> None:
    """Which is frozen in G's updates, as all of D's are."""
    shared = nn.Linear(2, 2)
    generator, discriminator = nn.Sequential(nn.Linear(3, 2), shared), nn.Sequential(shared, nn.Linear(2, 1))
    said = r"The generator and the discriminator share the weight 0\.weight: give each its own"
    with pytest.raises(UsageError, match=said):
        checked(generator=generator, discriminator=discriminator)
    with pytest.raises(UsageError, match=said):
        fit(small_gan(generator=generator, discriminator=discriminator), data(), 1)


@pytest.mark.parametrize("augment", [DiffAugment, partial(ADA, p=0.3, target=None)])
def test_augmentation_of_pixels_in_another_range_is_refused(augment: Callable[[], Augment]) -> None:
    generator = nn.Sequential(nn.Linear(3, 16), nn.Unflatten(1, (1, 4, 4)))
    critic = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    for value_range in ((-1.0, 1.0), (0.0, 1.0)):
        images = GivenData(torch.zeros(1, 4, 1, 4, 4), 4)
        images.value_range = value_range  # type: ignore[attr-defined]
        gan = small_gan(generator=generator, discriminator=critic, augment=augment())
        with (
            nullcontext()
            if value_range[0]
            else pytest.raises(UsageError, match=r"but the data's are in \[0\.0, 1\.0\]")
        ):
            check_networks(gan, images)


@pytest.mark.parametrize("value_range", [None, (0.0, 1.0), (-1.0, 1.0)])
@pytest.mark.parametrize("output", ["sigmoid", "tanh"])
def test_a_sigmoid_for_data_with_negative_values_is_refused(
    output: str, value_range: tuple[float, float] | None
) -> None:
    images = GivenData(torch.zeros(1, 4, 1, 6, 6), 4)
    images.value_range = value_range  # type: ignore[attr-defined]
    generator = infogan.Generator(3, (1, 6, 6), 2, 4, output=output).double()
    gan = small_gan(generator=generator, discriminator=nn.Sequential(nn.Flatten(), nn.Linear(36, 1)).double())
    said = r"model.generator ends in a sigmoid, .* but the data's are in \[-1, 1\]: choose a generator"
    is_refused = (output, value_range) == ("sigmoid", (-1.0, 1.0))
    with pytest.raises(UsageError, match=said) if is_refused else nullcontext():
        check_networks(gan, images)


def test_parts_that_only_move_pixels_take_any_range() -> None:
    assert ADA(["blit"]).value_range is None
    assert ADA({"color": 0.5}).value_range == DiffAugment(["translation"]).value_range == (-1.0, 1.0)


def test_a_buffer_that_a_network_assigns_is_put_back() -> None:
    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 2)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls = self.calls + 1
            return super().forward(x)

    gan = small_gan(generator=Counting())
    check_networks(gan, data())
    assert gan.game.generator.calls == 0


@pytest.mark.parametrize(
    "optimizer",
    [
        torch.optim.LBFGS,
        partial(torch.optim.Adam, differentiable=True),
        partial(torch.optim.Adam, capturable=True, foreach=True),  # on a CPU
    ],
)
def test_an_optimizer_that_cannot_step_is_refused(optimizer: Callable[..., Any]) -> None:
    trainer: Any = SimpleNamespace(strategy=ON_CPU)
    with pytest.raises(UsageError, match=r"^generator_optimizer cannot take a step \(.*\): correct its options"):
        check_optimizers(small_gan(generator_optimizer=optimizer), trainer, data())


def test_an_optimizer_of_ones_own_is_only_created() -> None:
    """It may choose weights by their shapes."""

    def of_matrices(weights: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD([{"params": [w for w in weights if w.dim() == rank]} for rank in (1, 2)], lr=0.1)

    def no_vectors(weights: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD([w for w in weights if w.dim() == 1], lr=0.1)

    for own in (of_matrices, no_vectors):
        check_optimizers(small_gan(generator_optimizer=own), SimpleNamespace(strategy=ON_CPU), data())  # type: ignore[arg-type]


def test_one_sample_for_batch_norm_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^data\.batch_size is 1: BatchNorm"):
        checked(1, discriminator=discriminator(nn.Flatten(0)))


@pytest.mark.parametrize(
    ("batch_size", "packing", "played"),
    [(64, 1, 64), (65, 1, 65), (512, 1, 64), (320, 1, 40), (400, 4, 100), (300, 3, 75), (96, 3, 48)],
)
def test_of_a_large_batch_a_part_is_played(batch_size: int, packing: int, played: int) -> None:
    """Which has only whole packs, as the batch does."""
    sizes: list[int] = []
    packed = nn.Sequential(nn.Linear(2 * packing, 1), nn.Flatten(0))
    gan = small_gan(packing=packing, discriminator=packed)
    gan.game.generator.register_forward_hook(lambda _, inputs, outputs: sizes.append(len(outputs)))
    check_networks(gan, data(batch_size))
    assert sizes == [played]


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_what_is_not_finite_is_refused(network: str) -> None:
    gan = small_gan()
    nn.init.constant_(getattr(gan.game, network)[0].weight, float("nan"))
    with pytest.raises(UsageError, match=rf"model\.{network} gives non-finite values"):
        check_networks(gan, data())


def test_a_sigmoid_is_allowed_where_it_is_no_mistake() -> None:
    """Within the network, and for a loss that takes other values than logits."""
    checked(discriminator=nn.Sequential(nn.Linear(2, 4), nn.Sigmoid(), nn.Linear(4, 1), nn.Flatten(0)))
    checked(discriminator=discriminator(nn.Sigmoid(), nn.Flatten(0)), loss=LeastSquares())


def test_a_sigmoid_is_told_by_the_graph() -> None:
    x = torch.ones(4, 1, requires_grad=True)
    for last in (torch.sigmoid(x), torch.sigmoid(x).squeeze(1), x.sigmoid().view(-1), x.sigmoid()[:, 0]):
        assert ends_in_sigmoid(last)
    for last in (x * 0 + 0.5, torch.sigmoid(x) + 1, torch.tanh(x), x.squeeze(1), torch.ones(4)):
        assert not ends_in_sigmoid(last)


class Own(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("mine")


def test_an_error_of_own_code_stays_what_it_is() -> None:
    with pytest.raises(ValueError, match=r"^mine$") as info:
        checked(discriminator=Own())
    assert not isinstance(info.value, UsageError)


def test_nothing_changes() -> None:
    network = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 1), nn.Flatten(0))
    gan = small_gan(discriminator=network)
    network[1].eval()
    before = {name: value.clone() for name, value in gan.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    check_networks(gan, data())
    assert all(torch.equal(value, before[name]) for name, value in gan.state_dict().items())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), str(np.random.get_state())) == states[1:]
    assert [module.training for module in network] == [True, False, True, True, True]
    assert all(weight.grad is None for weight in gan.parameters())


def test_pairs_are_translated_and_nothing_else_is() -> None:
    pairs = GivenData(torch.randn(4, 4, 2), 4)
    pairs.conditions = lambda n: torch.zeros(n, 2)  # type: ignore[method-assign]
    with pytest.raises(UsageError, match=r"are pairs of images, .* choose game=pix2pix"):
        check_networks(small_gan(), pairs)

    class Translating(Game):
        translates = True

    with pytest.raises(UsageError, match="not pairs of images: choose data=paired_folder"):
        check_networks(small_gan(Translating), GivenData(torch.randn(4, 4, 2), 4))


# ------------------------------------------------------------------------------------------------------- optimizers


def make(steps: int = 5, **options: Any) -> None:
    trainer: Any = SimpleNamespace(max_steps=steps, max_epochs=-1, strategy=ON_CPU)
    check_optimizers(small_gan(**options), trainer, data())


def test_an_error_in_ones_own_optimizer_keeps_its_traceback() -> None:
    def mine(weights: Any) -> Any:
        return torch.optim.SGD(weights, momentom=1)  # type: ignore[call-arg]

    with pytest.raises(TypeError, match="momentom") as failed:
        make(generator_optimizer=mine)
    assert failed.traceback[-1].name == "mine"


def test_only_schedules_that_a_player_has_are_tried() -> None:
    adam = partial(torch.optim.Adam, lr=0.1)
    options = {"generator_optimizer": adam, "schedule": partial(cosine, beta2=0.9)}
    make(**options, scheduled="generator")
    with pytest.raises(UsageError, match=r"schedule\.beta2 is 0\.9, but SGD has no betas"):
        make(**options, scheduled="both")


def test_making_optimizers_draws_no_random_numbers_and_changes_no_weight() -> None:
    def drawing(weights: Any) -> Any:
        torch.rand(3)
        return torch.optim.SGD(weights, lr=random.random())

    gan = small_gan(generator_optimizer=drawing, schedule=lambda o, n: torch.optim.lr_scheduler.ConstantLR(o, 0.1, n))
    weights = {name: weight.clone() for name, weight in gan.state_dict().items()}
    states = torch.get_rng_state(), random.getstate()
    trainer: Any = SimpleNamespace(max_steps=5, max_epochs=-1, strategy=ON_CPU)
    check_optimizers(gan, trainer, data())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert all(torch.equal(weight, weights[name]) for name, weight in gan.state_dict().items())


def test_a_schedule_of_a_run_without_an_end_is_refused() -> None:
    make(-1)
    with pytest.raises(UsageError, match="A schedule needs the run's length"):
        make(-1, schedule=lambda o, n: torch.optim.lr_scheduler.ConstantLR(o, 0.1, n))
