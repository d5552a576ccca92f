"""Runs of the games as the command line makes them: resumed bit for bit, sampled, exported, with their metrics."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import GivenData, fit, load_script, small_gan
from omegaconf import DictConfig
from PIL import Image
from test_configs import write_mnist
from test_resume import assert_same_state, checkpoint, in_parts
from torch import Tensor, nn
from torch.testing import assert_close
from torchmetrics import MeanMetric, Metric
from torchvision.transforms.functional import pil_to_tensor

from gan_lightning.batch import Batch
from gan_lightning.callbacks.game import GamePictures
from gan_lightning.checkpoints import load
from gan_lightning.data.loader import Batches
from gan_lightning.errors import UsageError
from gan_lightning.game import Game
from gan_lightning.games.bigan import BiGAN
from gan_lightning.games.infogan import Codes, InfoGAN
from gan_lightning.metrics.features import Features
from gan_lightning.metrics.images import ImageMetrics
from gan_lightning.priors import Normal

Configure = Callable[..., DictConfig]
PLAIN = ["trainer.accelerator=cpu", "trainer.devices=1", "logger=none", "data.batch_size=8", "data.download=false"]
NARROW = ["model.generator.width=4", "model.discriminator.width=4"]
PERCEPTRONS = [f"model.{network}.widths=[16]" for network in ("generator", "encoder", "discriminator")]
RUNS = {
    "infogan_mnist": (NARROW, "codes", 9),
    "bigan_mnist": (PERCEPTRONS, "reconstructions", 2),
    "pix2pix_mnist_edges": (NARROW, "translations", 3),
}


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mnist")
    write_mnist(folder)
    return folder


@pytest.mark.parametrize("experiment", RUNS)
def test_parts_of_a_games_run_are_the_run(configure: Configure, tmp_path: Path, mnist: Path, experiment: str) -> None:
    small, pictures, rows = RUNS[experiment]
    overrides = (
        f"experiment={experiment}",
        *PLAIN,
        *small,
        f"data.root={mnist}",
        f"callbacks.{pictures}.every_n_steps=4",
    )
    in_parts(configure, tmp_path / "whole", overrides, [8])
    in_parts(configure, tmp_path / "parts", overrides, [4, 8])
    assert_same_state(checkpoint(tmp_path / "parts"), checkpoint(tmp_path / "whole"))
    for step in (4, 8):
        whole, parts = (tmp_path / run / pictures / f"{step:07}.png" for run in ("whole", "parts"))
        assert whole.read_bytes() == parts.read_bytes()
    height, width = pil_to_tensor(Image.open(whole)).shape[1:]
    assert height / width == pytest.approx((2 + 30 * rows) / (2 + 30 * (10 if pictures == "codes" else 16)))
    if experiment != "pix2pix_mnist_edges":  # which needs images
        sampled_and_exported(tmp_path / "whole", tmp_path)


def sampled_and_exported(run: Path, folder: Path) -> None:
    for script, out in (("sample", "samples.npz"), ("export", "generator.pt2")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [f"{script}.py", f"checkpoint={run}", f"out={folder / out}"])
            load_script(script).main()
    gan = load(run)
    latents = gan.game.prior.sample(3)
    exported = torch.export.load(folder / "generator.pt2").module()(latents)
    assert_close(exported, gan.sample(3, latents=latents), atol=1e-5, rtol=1e-5)
    assert np.load(folder / "samples.npz")["samples"].shape == (64, 1, 28, 28)


# ------------------------------------------------------------------------------------------- the games' own metrics


class Measured(GivenData):
    """With held-out samples and a metric."""

    def metrics(self) -> dict[str, Metric]:
        return {"known": First()}

    def val_dataloader(self) -> Batches:
        return Batches(Batch(self.rounds[0]), 2)


class First(MeanMetric):
    """The mean of the first coordinate of the generated samples."""

    def update(self, generated: Batch, real: Batch) -> None:
        super().update(generated.x[:, 0])


class Measuring(Game):
    def metrics(self, data: Any) -> dict[str, Metric]:
        assert isinstance(data, Measured)
        return {"latents": FromLatents()}


class FromLatents(MeanMetric):
    def update(self, generated: Batch, real: Batch) -> None:
        assert generated.z is not None
        super().update(generated.z[:, 0])


def test_a_games_metrics_stand_beside_the_datas() -> None:
    trainer = fit(small_gan(Measuring), Measured(torch.randn(2, 4, 2, dtype=torch.double), 4), 2)
    assert {"val/known", "val/latents"} <= set(trainer.callback_metrics)
    without = fit(small_gan(Measuring), GivenData(torch.randn(2, 4, 2, dtype=torch.double), 4), 2)
    assert not any(name.startswith("val/") for name in without.callback_metrics)


def test_validations_latents_are_the_same_at_every_step_and_others_for_another_seed() -> None:
    def latents(seed: int, steps: int) -> float:
        torch.manual_seed(seed)
        data = Measured(torch.randn(steps, 4, 2, dtype=torch.double), 4)
        return fit(small_gan(Measuring), data, steps).callback_metrics["val/latents"].item()

    assert latents(0, 2) == latents(0, 3) != latents(1, 2)


def images_metric(accuracy: float | None) -> SimpleNamespace:
    metric = ImageMetrics(Features("any", nn.Identity(), accuracy))
    names = tuple("0123456789")
    return SimpleNamespace(metrics=lambda: {"images": metric}, value_range=(-1.0, 1.0), all_class_names=names)


def test_categories_are_matched_where_a_classifier_is() -> None:
    game = InfoGAN(nn.Identity(), nn.Identity(), Codes(12))
    assert list(game.metrics(images_metric(0.99))) == ["category_match"]
    assert game.metrics(images_metric(None)) == {}  # Inception knows other classes
    assert game.metrics(SimpleNamespace(metrics=lambda: {"ks": None})) == {}


def test_reconstructions_are_compared_with_images_in_memory() -> None:
    game = BiGAN(nn.Identity(), nn.Identity(), Normal(2), encoder=nn.Identity())
    data = SimpleNamespace(images=torch.zeros(2, 1, 4, 4, dtype=torch.uint8), value_range=(-1.0, 1.0))
    assert list(game.metrics(data)) == ["reconstruction"]
    assert game.metrics(SimpleNamespace()) == {}


# ----------------------------------------------------------------------------------------------------- the pictures


def test_a_picture_that_a_game_does_not_have_is_said() -> None:
    with pytest.raises(TypeError, match="Game must define what a picture of it shows"):
        Game(nn.Identity(), nn.Identity(), Normal(2)).illustrate(torch.empty(0), Batch(torch.empty(0)))


def test_a_picture_is_tried_before_training() -> None:
    gan = small_gan()
    with pytest.raises(UsageError, match=r"Game has none: remove it with ~callbacks\.codes\."):
        GamePictures("codes").rehearse(gan, GivenData(torch.randn(6, 4, 2), 4))


def test_pictures_leave_the_training_alone(tmp_path: Path) -> None:
    class Shown(GivenData):
        def held_out_samples(self, n: int) -> Batch:
            return Batch(self.rounds[0, :n])

    class InRows(Game):
        def illustrate(self, z: Tensor, real: Batch) -> Tensor:
            return torch.stack([real.x, self.generate(z).x])

    states = []
    for callbacks in ([], [GamePictures("rows", 2, n=3)]):
        torch.manual_seed(0)
        gan = small_gan(InRows, ema_decay=0.9)
        fit(gan, Shown(torch.randn(6, 4, 2, dtype=torch.double), 4), 6, callbacks=callbacks, default_root_dir=tmp_path)
        states.append(gan.state_dict())
    assert_same_state(*states)
    assert sorted(path.stem for path in (tmp_path / "rows").iterdir()) == [f"{step:07}" for step in (2, 4, 6)]
