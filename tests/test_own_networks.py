"""A user's own networks, optimizers, schedules and data in plain Python: trained exactly, or refused in a sentence."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from helpers import Lines, small_gan
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LinearLR, LRScheduler, ReduceLROnPlateau, SequentialLR
from torch.testing import assert_close
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from gan_lightning import GAN, R1, R2, GradientPenalty, Normal, UsageError, load, optim
from gan_lightning.ema import MovingAverage
from gan_lightning.errors import Diverged
from gan_lightning.game import Game, evaluating
from gan_lightning.games.bigan import BiGAN
from gan_lightning.games.pix2pix import Pix2Pix
from gan_lightning.losses import Hinge, NonSaturating
from gan_lightning.warm_start import start_from
from gan_lightning.weights import write

N = 8


def points(n: int = 32, features: int = 2) -> Tensor:
    return torch.randn(n, features, generator=torch.Generator().manual_seed(5), dtype=torch.double)


def loader(n: int = 32, features: int = 2) -> DataLoader[Any]:
    return DataLoader(TensorDataset(points(n, features)), N)


def trainer(**options: Any) -> lightning.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    return lightning.Trainer(**{"enable_checkpointing": False, "log_every_n_steps": 2} | quiet | options)


def fit(gan: GAN, epochs: int = 1, **options: Any) -> lightning.Trainer:
    loop = trainer(max_epochs=epochs, **options)
    loop.fit(gan, loader())
    return loop


# ------------------------------------------------------------------------------------------------ networks


class Masked(nn.Module):
    """Attention with a causal mask, whose entries are 0 and -inf, and an observer of the least latent, from +inf."""

    def __init__(self) -> None:
        super().__init__()
        self.widen, self.narrow = nn.Linear(3, 16), nn.Linear(4, 1)
        self.register_buffer("mask", torch.triu(torch.full((4, 4), -torch.inf, dtype=torch.double), 1))
        self.register_buffer("least", torch.tensor(torch.inf))
        self.register_buffer("scale", torch.ones(()).expand(4))

    def forward(self, z: Tensor) -> Tensor:
        if self.training:
            self.least = torch.minimum(self.least, z.detach().min())
        q = self.widen(z).view(-1, 4, 4)
        return self.narrow(nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=self.mask))[:, :2, 0]


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_buffers_may_be_infinite_from_the_start(tmp_path: Path, ema_decay: float) -> None:
    gan = small_gan(generator=Masked(), ema_decay=ema_decay)
    keeper = ModelCheckpoint(tmp_path, save_last=True)
    fit(gan, 2, callbacks=[keeper], enable_checkpointing=True)
    assert gan.sample(5).isfinite().all()
    other = load(tmp_path / "last.ckpt", gan=small_gan(generator=Masked(), ema_decay=ema_decay))
    z = torch.randn(5, 3, dtype=torch.double)
    assert_close(other(z), gan(z), rtol=0, atol=0)
    assert gan.game.generator.least.isfinite()
    if gan.average is not None:
        averaged = gan.average.network["generator"]
        assert_close((averaged.mask, averaged.least), (gan.game.generator.mask, gan.game.generator.least))


def test_an_average_follows_a_cache_that_grows() -> None:
    class Growing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))
            self.register_buffer("positions", torch.arange(2.0))

    network = Growing()
    average = MovingAverage(network, 0.9)
    average.follow(network)
    network.positions = torch.arange(5.0)
    average.update(0)
    assert_close(average.network.positions, torch.arange(5.0))


def test_an_average_follows_a_network_compiled_later() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = MovingAverage(network, 0.9)
    average.follow(nn.ModuleDict({"0": torch.compile(network[0]), "1": torch.compile(network[1])}))
    network(torch.randn(8, 3))
    average.update(0)
    assert_close(average.network[1].running_mean, 0.9 * network[1].running_mean)  # the first decay is 1 / 10


def test_a_buffer_with_two_names_is_averaged_once() -> None:
    network = nn.ModuleDict({"one": nn.BatchNorm1d(2), "two": nn.BatchNorm1d(2)})
    network["two"].running_mean = network["one"].running_mean
    average = MovingAverage(network, 0.5, warmup=False)
    average.follow(network)
    network["one"].running_mean += 1
    average.update(0)
    assert_close(average.network["two"].running_mean, torch.full((2,), 0.5))


def test_frozen_weights_may_be_coarse() -> None:
    network = nn.Sequential(nn.Linear(2, 2).half().requires_grad_(False), nn.Linear(2, 2))
    network.register_parameter("codes", nn.Parameter(torch.ones(2, dtype=torch.uint8), requires_grad=False))
    MovingAverage(network, 0.999).follow(network)


def test_numbers_may_be_numpys() -> None:
    fit(small_gan(critic_steps=np.int64(2), gradient_clip_val=np.float32(1), ema_decay=np.float32(0.9)))
    R1(np.float32(1.0))  # type: ignore[arg-type]


def test_a_buffer_that_is_not_a_number_is_refused(tmp_path: Path) -> None:
    gan = small_gan()
    gan.game.generator.register_buffer("unused", torch.tensor([torch.inf, torch.nan]))
    with pytest.raises(Diverged, match="unused is no longer finite"):
        fit(gan).save_checkpoint(tmp_path / "a.ckpt")


def test_an_average_of_coarse_weights_is_refused() -> None:
    network = nn.Linear(2, 2).bfloat16()
    with pytest.raises(UsageError, match=r"torch\.bfloat16, too coarse for an average: keep them in float32"):
        MovingAverage(network, 0.999).follow(network)


def test_weights_that_a_players_networks_share_step_once() -> None:
    """A decoder and an encoder with tied weights: w <- w - lr * gradient."""

    class Tied(nn.Module):
        def __init__(self, layer: nn.Linear, is_encoder: bool) -> None:
            super().__init__()
            self.layer, self.is_encoder = layer, is_encoder

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.layer.weight if self.is_encoder else self.layer(x)

    layer = nn.Linear(3, 2)
    critic = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))
    gan = small_gan(BiGAN, generator=Tied(layer, False), encoder=Tied(layer, True), discriminator=critic)
    before = layer.weight.detach().clone()
    trainer(max_steps=1).fit(gan, loader())
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().max() > 1e-3
    assert_close(layer.weight.detach(), before - 0.1 * layer.weight.grad)


def test_weights_unfrozen_at_the_start_train_as_if_they_had_never_been_frozen() -> None:
    class Unfreeze(lightning.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
            module.game.discriminator[0].requires_grad_(True)

    def run(is_frozen: bool) -> GAN:
        torch.manual_seed(0)
        gan = small_gan(gradient_clip_val=0.05)
        gan.game.discriminator[0].requires_grad_(not is_frozen)
        fit(gan, callbacks=[Unfreeze()])
        return gan

    assert_close(run(True).state_dict(), run(False).state_dict(), rtol=0, atol=0)


def test_sampling_keeps_the_mode_of_every_part() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    network[1].eval()
    with evaluating(network):
        assert not any(part.training for part in network.modules())
    assert [part.training for part in network.modules()] == [True, True, False, True]


def test_after_sampling_a_networks_own_train_is_called() -> None:
    class Merging(nn.Linear):
        is_merged = False

        def train(self, mode: bool = True) -> "Merging":
            self.is_merged = not mode
            return super().train(mode)

    network = nn.Sequential(Merging(3, 2))
    with evaluating(network):
        assert network[0].is_merged
    assert not network[0].is_merged


def test_a_loaded_gan_trains_in_training_mode(tmp_path: Path) -> None:
    def made() -> GAN:
        generator = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        return small_gan(generator=generator)

    fit(made()).save_checkpoint(tmp_path / "a.ckpt")
    gan = load(tmp_path / "a.ckpt", gan=made())
    before = gan.game.generator[1].running_mean.clone()
    fit(gan)
    assert (gan.game.generator[1].running_mean - before).abs().max() > 1e-4
    frozen = made()
    frozen.game.generator[1].eval()  # by the user, before it is loaded
    load(tmp_path / "a.ckpt", gan=frozen)
    with pytest.warns(UserWarning, match=r"Found 1 module\(s\) in eval mode"):
        fit(frozen)
    assert_close(frozen.game.generator[1].running_mean, before, rtol=0, atol=0)


def test_a_checkpoint_loads_into_lazy_layers(tmp_path: Path) -> None:
    def made() -> GAN:
        return small_gan(discriminator=nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(1), nn.Flatten(0)))

    gan = made()
    gan.game.discriminator(points())
    fit(gan).save_checkpoint(tmp_path / "a.ckpt")
    other = load(tmp_path / "a.ckpt", gan=made())
    assert_close(other.game.discriminator(points()), gan.game.discriminator(points()))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch.compile's own
def test_penalties_of_a_network_that_the_user_compiled() -> None:
    """Differentiated twice, which compiled networks cannot be, so run eagerly: the same weights to the last digit."""

    def run(is_compiled: bool) -> Any:
        torch.manual_seed(0)
        gan = small_gan(regularizers=[R1(0.5)])
        if is_compiled:
            gan.game.discriminator = torch.compile(gan.game.discriminator, backend="aot_eager")  # type: ignore[assignment]
        fit(gan)
        return list(gan.parameters())

    assert_close(run(True), run(False), rtol=0, atol=0)


# ------------------------------------------------------------------------------------- optimizers and schedules


def warmed_up(optimizer: Optimizer, _: int) -> LRScheduler:
    return SequentialLR(optimizer, [LinearLR(optimizer, 0.1, total_iters=3), ExponentialLR(optimizer, 0.9)], [3])


class Own(GAN):
    """With optimizers and schedules of its own, and a weight that no player has."""

    interval = "step"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.own = nn.Parameter(torch.zeros(1))

    def configure_optimizers(self) -> Any:
        optimizers = [SGD(self.game.weights_of(name), 0.1) for name in ("generator", "discriminator")]
        optimizers[0].add_param_group({"params": [self.own], "lr": 0.0})
        schedules = [ExponentialLR(optimizer, 0.9) for optimizer in optimizers]
        return optimizers, [{"scheduler": schedule, "interval": self.interval} for schedule in schedules]


def own() -> GAN:
    small = small_gan()
    return Own(small.game).double()


MAKERS: dict[str, Callable[[], GAN]] = {
    "tensor": lambda: small_gan(
        generator_optimizer=lambda weights: Adam(weights, lr=torch.tensor(1e-2)),
        schedule=lambda optimizer, _: ExponentialLR(optimizer, 0.9),
    ),
    "sequential": lambda: small_gan(schedule=warmed_up),
    "own": own,
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_resumed_run_has_the_rates_and_weights_of_the_whole_run(tmp_path: Path, make: Callable[[], GAN]) -> None:
    torch.manual_seed(0)
    whole = make()
    loop = fit(whole, 4)
    torch.manual_seed(0)
    fit(make(), 2).save_checkpoint(tmp_path / "half.ckpt")
    torch.manual_seed(77)
    second = make()
    resumed = trainer(max_epochs=4)
    resumed.fit(second, loader(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    rates = [[float(o.param_groups[0]["lr"]) for o in each.optimizers] for each in (loop, resumed)]
    assert rates[1] == rates[0]
    assert rates[0][1] < 0.05  # of SGD at 0.1 or Adam's 0.1 default here: the schedule has lowered it
    assert_close(second.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_schedules_of_a_subclass_by_epoch_are_left_to_it() -> None:
    class ByEpoch(Own):
        interval = "epoch"

    loop = fit(ByEpoch(small_gan().game).double(), 2)
    assert [optimizer.param_groups[0]["lr"] for optimizer in loop.optimizers] == [0.1, 0.1]


def test_optimizers_in_another_order_are_refused() -> None:
    class Swapped(Own):
        def configure_optimizers(self) -> Any:
            optimizers, _ = super().configure_optimizers()
            return optimizers[::-1]

    with pytest.raises(UsageError, match="must return the generator's optimizer and the discriminator's, in order"):
        fit(Swapped(small_gan().game).double())


def test_a_schedule_by_a_metric_is_refused() -> None:
    gan = small_gan(schedule=lambda optimizer, _: ReduceLROnPlateau(optimizer))
    with pytest.raises(UsageError, match="ReduceLROnPlateau waits for a metric"):
        fit(gan)


@pytest.mark.parametrize("schedule", [optim.linear, optim.cosine])
def test_a_schedule_over_a_loader_without_length_needs_max_steps(schedule: Any) -> None:
    class Stream(IterableDataset[Tensor]):
        def __iter__(self) -> Iterator[Tensor]:
            yield from points()

    stream: DataLoader[Any] = DataLoader(Stream(), N)
    with pytest.raises(UsageError, match="this loader has none: set max_steps"):
        trainer(max_epochs=2).fit(small_gan(schedule=schedule), stream)
    loop = trainer(max_steps=4)
    loop.fit(small_gan(schedule=schedule), stream)
    assert [optimizer.param_groups[0]["lr"] for optimizer in loop.optimizers] == pytest.approx([0, 0], abs=1e-12)


def test_a_gan_without_discriminator_weights_is_refused_before_its_optimizers() -> None:
    gan = small_gan()
    gan.game.discriminator.requires_grad_(False)
    with pytest.raises(UsageError, match="The discriminator has no weights that require gradients"):
        fit(gan)


# ------------------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"gradient_clip_val": -1.0}, "gradient_clip_val is -1.0: give a number above 0"),
        ({"gradient_clip_val": 0.0}, "gradient_clip_val is 0.0: give a number above 0"),
        ({"gradient_clip_algorithm": "Norm"}, "gradient_clip_algorithm is 'Norm': give one of norm, value"),
        ({"critic_steps": 0}, "critic_steps is 0: give a whole number, at least 1"),
        ({"critic_steps": 1.0}, "critic_steps is 1.0: give a whole number"),
        ({"accumulate_grad_batches": 0}, "accumulate_grad_batches is 0: give a whole number"),
        ({"packing": 0}, "packing is 0: give a whole number, at least 1"),
        ({"reuse_fakes": "no"}, "reuse_fakes is 'no': give true or false"),
        ({"ema_decay": "0.9"}, "ema_decay is '0.9': give a number between 0 and 1"),
        ({"generator_optimizer": Adam([nn.Parameter(torch.ones(1))])}, "generator_optimizer is of type Adam: give a"),
        ({"loss": Hinge}, r"loss is <class .*Hinge.*: give a torch\.nn\.Module, such as Hinge\(\)"),
        ({"loss": "hinge"}, "loss is 'hinge': give a torch"),
        ({"prior": torch.distributions.Normal(0.0, 1.0)}, r"prior is Normal\(.*: give a torch.* Normal\(64\)"),
        ({"regularizers": {"adversarial": R2(0.1)}}, "discriminator's regularizer adversarial has the name of"),
        ({"order": "sideways"}, "order is 'sideways': give one of discriminator_first, "),
        *(({name: None}, f"{name} is None: give") for name in ("order", "reuse_fakes", "scheduled", "critic_steps")),
        ({"gradient_clip_algorithm": None}, "gradient_clip_algorithm is None: give one of norm, value"),
    ],
)
def test_a_wrong_argument_is_refused(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        small_gan(**options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"interval": 2.5}, "interval is 2.5: give a whole number, at least 1"),
        ({"weight": float("nan")}, "weight is nan: give a number, at least 0"),
        ({"weight": float("inf")}, "weight is inf: give a number, at least 0"),
        ({"weight": -1.0}, "weight is -1.0: give a number, at least 0"),
    ],
)
def test_a_wrong_argument_of_a_regularizer_is_refused(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        R1(**{"weight": 1.0} | options)


def test_a_penalty_named_like_a_term_of_a_game_is_refused() -> None:
    networks = nn.Linear(2, 2), nn.Linear(4, 1)
    for network in networks:
        network.conditional = True
    with pytest.raises(UsageError, match="generator's regularizer l1 has the name of a term of its loss"):
        Pix2Pix(*networks, Normal(2), generator_regularizers={"l1": R2(0.1)})
    Pix2Pix(*networks, Normal(2), regularizers={"l1": R2(0.1)})


# ----------------------------------------------------------------------------------------------- data and logs


def test_numpys_descriptions_of_data_are_kept_in_checkpoints(tmp_path: Path) -> None:
    class Described(lightning.LightningDataModule):
        class_names = np.unique(["b", "a"])
        value_range = (np.float32(-1), np.float32(1))
        metrics = SimpleNamespace(mine=1)  # of the user's own, not this package's method

        def train_dataloader(self) -> Any:
            return loader()

    loop = trainer(max_epochs=1)
    loop.fit(small_gan(), datamodule=Described())
    loop.save_checkpoint(tmp_path / "a.ckpt")
    described = load(tmp_path / "a.ckpt", gan=small_gan()).described
    assert described["class_names"] == ["a", "b"]
    assert described["value_range"] == (-1.0, 1.0)


def test_numbers_of_classes_need_no_names() -> None:
    class Shifted(nn.Module):
        conditional = True

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, z: Tensor, y: Tensor) -> Tensor:
            return 0 * self.layer(z) + y[:, None]

    gan = small_gan(generator=Shifted())
    assert gan.sample(5, labels=[2, 7])[:, 0].tolist() == [2, 7, 2, 7, 2]
    for labels in (range(2, 8, 5), [np.int64(2), np.int64(7)], np.array([2, 7, 2, 7, 2])):
        assert gan.sample(5, labels=labels)[:, 0].tolist() == [2, 7, 2, 7, 2]
    with pytest.raises(UsageError, match="names of the generator's classes are unknown"):
        gan.sample(5)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((nn.Linear(2, 2), nn.Linear(2, 1)), r"^game is a Linear: give a Game, such as Game\(generator, discriminator"),
        ((None,), "^game is a NoneType: give a Game"),
        ((Game,), "^game is a type: give a Game"),
        ((small_gan().game, nn.Linear(2, 1)), "^generator_optimizer is of type Linear: give a function that makes"),
    ],
)
def test_what_is_no_game_is_refused(arguments: tuple[Any, ...], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        GAN(*arguments)


def test_without_logging_the_losses_are_checked_but_neither_kept_nor_logged(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    gan = small_gan()
    fit(gan, 40, log_every_n_steps=0, logger=logger)  # 160 updates
    logger.save()
    assert len(gan.losses.state()["names"]) == 2 * (160 % 50)
    assert not (tmp_path / "metrics.csv").exists()


def test_deepcopies_train_apart() -> None:
    gan = small_gan(ema_decay=0.9)
    other = deepcopy(gan)
    before = deepcopy(other.state_dict())
    fit(gan)
    assert_close(other.state_dict(), before, rtol=0, atol=0)


# ------------------------------------------------------------------------------------------------ shapes and owners


class Reshaping(nn.Linear):
    """D that takes samples of any shape."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1)).flatten()


def test_samples_of_another_shape_than_the_datas_are_refused() -> None:
    """Which broadcasts against it where both are compared, as on the way between real and fake samples."""
    generator = nn.Sequential(nn.Linear(3, 2), nn.Unflatten(1, (1, 2)))
    gan = small_gan(generator=generator, discriminator=Reshaping(2, 1), regularizers={"gp": GradientPenalty(1.0)})
    with pytest.raises(UsageError, match=r"The generator gives samples \(8, 1, 2\), but the data has \(8, 2\)"):
        fit(gan)


def test_logits_of_three_dimensions_are_refused() -> None:
    gan = small_gan(discriminator=nn.Sequential(nn.Linear(2, 6), nn.Unflatten(1, (2, 3))))
    with pytest.raises(UsageError, match=r"The discriminator gives \(8, 2, 3\): return logits \(N,\)"):
        fit(gan)


class Margin(NonSaturating):
    """A loss with a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.margin = nn.Parameter(torch.ones(()))


def test_a_weight_that_nobody_trains_is_refused() -> None:
    gan = small_gan(loss=Margin())
    with pytest.raises(UsageError, match=r"No player trains the game's loss\.margin"):
        fit(gan)
    gan.game.loss.margin.requires_grad_(False)
    fit(gan)


class Remembering(nn.Linear):
    """A layer with state that is no tensor."""

    scale = 1.0

    def get_extra_state(self) -> dict[str, float]:
        return {"scale": self.scale}

    def set_extra_state(self, state: dict[str, float]) -> None:
        self.scale = state["scale"]


def test_extra_state_of_a_module_is_restored(tmp_path: Path) -> None:
    gan = small_gan(generator=Remembering(3, 2))
    gan.game.generator.scale = 3.0
    fit(gan, callbacks=[ModelCheckpoint(tmp_path, save_last=True)], enable_checkpointing=True)
    other = load(tmp_path / "last.ckpt", gan=small_gan(generator=Remembering(3, 2)))
    assert other.game.generator.scale == 3.0


class Descent(torch.optim.Optimizer):
    """Gradient descent whose rate has another name."""

    def __init__(self, weights: Any) -> None:
        super().__init__(weights, {"eta": 0.1})

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                weight.data -= group["eta"] * weight.grad


def test_an_optimizer_may_have_no_learning_rate() -> None:
    gan = small_gan(generator_optimizer=Descent, discriminator_optimizer=Descent)
    lines = Lines()
    fit(gan, callbacks=[lines], log_every_n_steps=1)
    assert lines.lines
    assert not [name for line in lines.lines for name in line if "learning_rate" in name]


@pytest.mark.parametrize("kernel", [2, 1])
def test_logits_may_be_maps_of_one_channel(kernel: int) -> None:
    """Of convolutions over a whole sample or over patches; as if flattened."""
    gans = []
    for end in ([], [nn.Flatten(0)]):
        torch.manual_seed(3)
        layers = nn.Unflatten(1, (1, 1, 2)), nn.Conv2d(1, 1, (1, kernel)), *end
        gans.append(small_gan(discriminator=nn.Sequential(*layers)))
        fit(gans[-1])
    assert_close(list(gans[0].parameters()), list(gans[1].parameters()), rtol=0, atol=0)


def test_extra_state_starts_another_run_and_is_no_tensor_to_export(tmp_path: Path) -> None:
    gan = small_gan(generator=Remembering(3, 2))
    gan.game.generator.scale = 3.0
    fit(gan, callbacks=[ModelCheckpoint(tmp_path, save_last=True)], enable_checkpointing=True)
    other = small_gan(generator=Remembering(3, 2))
    start_from(other, tmp_path / "last.ckpt")
    assert other.game.generator.scale == 3.0
    with pytest.raises(UsageError, match=r"_extra_state is the extra state of a module, .* another format"):
        write(tmp_path / "g.safetensors", other)
