"""From a checkpoint back to the trained generator, and what is no checkpoint."""

import copy
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from omegaconf import DictConfig, OmegaConf

from gan_lightning.build import build_data, build_gan, build_trainer
from gan_lightning.cache import digest_of
from gan_lightning.checkpoints import load, read_checkpoint
from gan_lightning.errors import UsageError
from gan_lightning.game import Game
from gan_lightning.gan import GAN
from gan_lightning.strategy import Replicas
from gan_lightning.training import train

Configure = Callable[..., DictConfig]
TINY = (
    "trainer.max_steps=6",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "logger=none",
    "trainer.enable_progress_bar=false",
    "data=ring",
    "data.batch_size=16",
    "data.rounds_per_epoch=4",
    "data.rounds_per_batch=2",
    "data.validation_samples=64",
    "model.generator.widths=[8]",
    "model.discriminator.widths=[8]",
    "model.ema_decay=0.5",
    "~callbacks.samples",
)


class _Keep(Callback):
    module: GAN

    def on_train_end(self, trainer: Any, module: GAN) -> None:
        self.module = copy.deepcopy(module)


def trained(config: DictConfig, folder: Path) -> GAN:
    keep = _Keep()
    train(config, folder, [keep])
    return keep.module


@pytest.mark.parametrize("overrides", [[], ["model=linear", "prior=uniform", "~model.generator.widths"]], ids=str)
def test_a_loaded_generator_makes_the_samples_of_the_trained_one(
    configure: Configure, tmp_path: Path, overrides: list[str]
) -> None:
    tiny = [t for t in TINY if "widths" not in t] if overrides else TINY
    gan = trained(configure(*tiny, *(o for o in overrides if not o.startswith("~"))), tmp_path)
    expected = gan.sample(32, torch.Generator().manual_seed(4))
    for path in (tmp_path, str(tmp_path), tmp_path / "checkpoints" / "last.ckpt"):
        loaded = load(path)
        assert torch.equal(loaded.sample(32, torch.Generator().manual_seed(4)), expected)
        assert not loaded.training
        assert int(loaded.images_seen) == 6 * 16
        for name, weight in gan.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], weight), name
    assert (
        expected - gan.game.generator(gan.game.prior.sample(32, torch.Generator().manual_seed(4)))
    ).abs().max() > 1e-6


def test_a_checkpoint_is_plain_and_holds_the_resolved_configuration(configure: Configure, tmp_path: Path) -> None:
    config = configure(*TINY, "model.lr=0.005")
    train(config, tmp_path)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["gan"]["config"] == OmegaConf.to_container(config, resolve=True)
    assert saved["gan"]["config"]["generator_optimizer"]["lr"] == 0.005
    data = {"sample_shape": (2,), "class_names": tuple("01234567"), "value_range": None}
    assert saved["gan"]["data"] == data | {"joint_batch": 16, "fingerprint": None, "units": None, "blocks": ()}
    assert "${" not in str(saved["gan"]["config"])


@pytest.fixture
def checkpoint(configure: Configure, tmp_path: Path) -> Path:
    """The last checkpoint of a tiny run."""
    train(configure(*TINY), tmp_path / "run")
    return tmp_path / "run" / "checkpoints" / "last.ckpt"


def test_what_is_no_checkpoint_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    whole = checkpoint.read_bytes()
    (tmp_path / "text.ckpt").write_text("not a checkpoint\n")
    (tmp_path / "empty.ckpt").write_bytes(b"")
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "short.ckpt").write_bytes(whole[:-1])
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    torch.save({"state_dict": {}, "gan": {"config": {}}}, tmp_path / "hollow.ckpt")
    for name in ("text", "empty", "cut", "short", "other", "list", "hollow"):
        path = tmp_path / f"{name}.ckpt"
        with pytest.raises(UsageError, match=rf"{re.escape(str(path))} is (not a checkpoint of gan_lightning|damaged)"):
            load(path)


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_no_damage_of_a_checkpoint_is_accepted(checkpoint: Path, name: str) -> None:
    """Bits flipped anywhere: refused, or what is read has not changed."""
    path, chance = checkpoint.with_name(name), random.Random(0)
    whole, expected = path.read_bytes(), digest_of(read_checkpoint(path))
    refused = 0
    for _ in range(40):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            found = digest_of(read_checkpoint(path))
        except UsageError:
            refused += 1
        else:
            assert found == expected
    assert refused > 20  # of the others the bit stood in a file's padding


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    for path, sentence in (
        (tmp_path / "no.ckpt", "no.ckpt does not exist: give the folder of a run, a checkpoint or one of the trained"),
        (tmp_path, "last.ckpt does not exist: give a checkpoint or the folder of a run"),
    ):
        with pytest.raises(UsageError, match=sentence):
            load(path)


def test_a_checkpoint_of_another_architecture_names_the_first_differing_weight(checkpoint: Path) -> None:
    saved = torch.load(checkpoint, weights_only=True)
    saved["gan"]["config"]["model"]["discriminator"]["widths"] = [9]
    torch.save(saved, checkpoint)
    with pytest.raises(
        UsageError, match=r"another architecture: its game\.discriminator\.layers\.0\.bias is \(8,\) and .* \(9,\)"
    ):
        load(checkpoint)
    saved["gan"]["config"]["model"]["discriminator"]["widths"] = [8]
    saved["gan"]["config"]["model"]["ema_decay"] = 0.0
    torch.save(saved, checkpoint)
    with pytest.raises(UsageError, match=r"its average\.network\.generator\.layers\.0\.bias is \(8,\) and .* absent"):
        load(checkpoint)


def test_resuming_with_another_architecture_is_refused(checkpoint: Path) -> None:
    run = checkpoint.parent.parent
    config = OmegaConf.load(run / "config.yaml")
    assert isinstance(config, DictConfig)
    config.resume, config.model.generator.widths = str(run), [8, 8]
    with pytest.raises(UsageError, match=r"its average\.network\.generator\.layers\.2\.bias is \(2,\) and .* \(8,\)"):
        train(config, run)


def test_a_constructors_refusal_is_passed_on_in_its_own_words(configure: Configure, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"prior\.low is 5 and prior\.high is 1\.7.*low must be less than high\.$"):
        train(configure(*TINY, "prior=uniform", "prior.low=5"), tmp_path)
    with pytest.raises(UsageError, match=r"^Hinge cannot be created: .*unexpected keyword argument 'margin'\.$"):
        train(configure(*TINY, "loss=hinge", "+loss.margin=2"), tmp_path)
    with pytest.raises(UsageError, match=r"accelerator.*'abacus'"):
        train(configure(*TINY, "trainer.accelerator=abacus"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_a_run_is_refused(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: {}\n")
    with pytest.raises(UsageError, match=rf"{tmp_path} already holds a run: resume it with resume={tmp_path}"):
        train(configure(*TINY), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_folder_that_holds_checkpoints_alone_is_refused(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    best = tmp_path / "checkpoints" / "best.ckpt"
    best.write_bytes(b"of another run")
    with pytest.raises(UsageError, match=rf"^{best} belongs to a run whose config\.yaml is missing: restore"):
        train(configure(*TINY), tmp_path)
    assert best.read_bytes() == b"of another run"
    assert list(tmp_path.iterdir()) == [best.parent]


def test_a_target_outside_the_package_is_not_loaded(configure: Configure, tmp_path: Path) -> None:
    trained(configure(*TINY), tmp_path)
    last = tmp_path / "checkpoints" / "last.ckpt"
    saved = torch.load(last, weights_only=True)
    saved["gan"]["config"]["loss"]["_target_"] = "os.getcwd"
    torch.save(saved, last)
    with pytest.raises(UsageError, match=r"loss\._target_ is 'os.getcwd'"):
        load(last)


def test_matrices_are_multiplied_as_precisely_as_asked(configure: Configure, tmp_path: Path) -> None:
    seen: list[str] = []
    watch = LambdaCallback(on_train_start=lambda *_: seen.append(torch.get_float32_matmul_precision()))
    for i, overrides in enumerate((["trainer.float32_matmul_precision=high"], [])):
        train(configure(*TINY, *overrides), tmp_path / str(i), [watch])
    assert seen == ["high", "highest"]


@pytest.mark.parametrize(
    ("overrides", "strategy", "ranks"),
    [
        ([], SingleDeviceStrategy, 1),
        (["trainer.devices=2"], Replicas, 2),
        (["trainer.num_nodes=3"], Replicas, 3),
        (["trainer.devices=2", "trainer.strategy=ddp"], Replicas, 2),
        (["trainer=ddp", "trainer.devices=2"], Replicas, 2),
        (["trainer.devices=2", "trainer.strategy=ddp_find_unused_parameters_true"], DDPStrategy, 2),
    ],
    ids=str,
)
def test_several_devices_get_the_strategy_that_works(
    configure: Configure, tmp_path: Path, overrides: list[str], strategy: type, ranks: int
) -> None:
    trainer = build_trainer(configure("trainer.accelerator=cpu", *overrides), tmp_path, [])
    assert type(trainer.strategy) is strategy
    assert trainer.world_size == ranks


class MyGAN(GAN):
    """A subclass, such as a user's."""


class MyGame(Game):
    """A game, such as a user's."""


def test_subclasses_are_reached_from_the_configuration(configure: Configure) -> None:
    config = configure(*TINY, "model._target_=test_build.MyGAN", "game._target_=test_build.MyGame")
    gan = build_gan(config, (2,), 8)
    assert type(gan) is MyGAN
    assert type(gan.game) is MyGame


NORMAL = """{
  _target_: torch.distributions.MultivariateNormal, loc: [0, 1, 2], scale_tril: [[1, 0, 0], [1, 2, 0], [0, 0, 3]],
}"""
PLANES = """{
  _target_: torch.distributions.MixtureSameFamily,
  mixture_distribution: {_target_: torch.distributions.Categorical, probs: [1, 3]},
  component_distribution: {
    _target_: torch.distributions.Independent,
    base_distribution: {_target_: torch.distributions.Laplace, loc: [[0, 1], [2, 3]], scale: [[1, 1], [1, 2]]},
    reinterpreted_batch_ndims: 1,
  },
}"""


@pytest.mark.parametrize(
    ("text", "mean", "variance"),
    [(NORMAL, [0.0, 1.0, 2.0], [1.0, 5.0, 9.0]), (PLANES, [1.5, 2.5], [2.75, 7.25])],
    ids=["MultivariateNormal", "MixtureSameFamily"],
)
def test_lists_of_torchs_distributions_are_tensors(
    configure: Configure, tmp_path: Path, text: str, mean: list[float], variance: list[float]
) -> None:
    """Of any of them, nested too; the run trains, and is loaded from plain lists again."""
    config = configure(*TINY)
    config.data.distribution = OmegaConf.create(text)
    distribution = build_data(config).distribution
    torch.testing.assert_close(distribution.mean, torch.tensor(mean))
    torch.testing.assert_close(distribution.variance, torch.tensor(variance))
    train(config, tmp_path / "run")
    assert load(tmp_path / "run").sample(2).shape == (2, len(mean))
