"""Pictures: when, what is in them, and that they leave the training alone."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import GivenData, fit, small_gan
from lightning import Callback, LightningDataModule, Trainer
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from gan_lightning.batch import Rounds
from gan_lightning.callbacks.samples import SamplePictures
from gan_lightning.gan import GAN
from gan_lightning.loggers import EventFile
from gan_lightning.pictures import CAPTION, captioned, draw
from gan_lightning.regularizers import R1


def rounds(n: int) -> Tensor:
    return torch.randn(n, 4, 2, generator=torch.Generator().manual_seed(7), dtype=torch.double)


def pictures(folder: Path) -> dict[int, Tensor]:
    return {int(p.stem): pil_to_tensor(Image.open(p)) for p in sorted((folder / "samples").glob("*.png"))}


@pytest.mark.parametrize(
    ("rounds_per_batch", "every", "steps", "expected"),
    [
        (1, 4, 10, [0, 4, 8, 10]),
        (1, 5, 10, [0, 5, 10]),
        (5, 5, 10, [0, 5, 10]),
        (3, 4, 12, [0, 6, 9, 12]),  # the first batches' ends past 4 and 8, and 12
        (7, 2, 14, [0, 7, 14]),
        (1, 100, 3, [0, 3]),
    ],
)
def test_pictures_are_taken_at_the_start_at_multiples_and_at_the_end(
    tmp_path: Path, rounds_per_batch: int, every: int, steps: int, expected: list[int]
) -> None:
    data = GivenData(rounds(steps), 4, rounds_per_batch)
    fit(small_gan(), data, steps, callbacks=[SamplePictures(every, n=16)], default_root_dir=tmp_path)
    assert sorted(pictures(tmp_path)) == expected


class _Spoil(Callback):
    """Sets the generator to known weights, and draws random numbers as a neighbor might."""

    def on_train_batch_end(self, trainer: Any, module: GAN, *_: Any) -> None:
        torch.manual_seed(99)
        nn.init.constant_(module.game.generator[2].weight, trainer.global_step % 2)


def test_the_same_latents_are_pictured_each_time(tmp_path: Path) -> None:
    gan = small_gan(
        generator_optimizer=lambda p: torch.optim.SGD(p, lr=1e-30),
        discriminator_optimizer=lambda p: torch.optim.SGD(p, lr=1e-30),
    )
    # weights alternate between two states, so equal states must give equal pictures and others other ones
    callbacks = [_Spoil(), SamplePictures(1, n=64)]
    fit(gan, GivenData(rounds(4), 4), 4, callbacks=callbacks, default_root_dir=tmp_path)
    taken = pictures(tmp_path)
    taken = {step: picture[:, CAPTION:] for step, picture in taken.items()}  # below the step's number
    assert torch.equal(taken[1], taken[3])
    assert torch.equal(taken[2], taken[4])
    assert not torch.equal(taken[1], taken[2])


def test_pictures_show_the_averaged_generator_at_latents_from_the_seed(tmp_path: Path) -> None:
    gan = small_gan(ema_decay=0.5)
    seen = _Last()
    callbacks = [SamplePictures(2, n=50), seen]
    torch.manual_seed(31)
    fit(gan, GivenData(rounds(4), 4), 4, callbacks=callbacks, default_root_dir=tmp_path)
    latents = torch.randn(50, 3, generator=torch.Generator().manual_seed(31))
    assert gan.average is not None
    expected = captioned(draw(gan.average.network["generator"](latents.double()).float()), "step 4")
    taken = pictures(tmp_path)
    assert torch.equal(taken[4], expected)
    assert torch.equal(taken[0], captioned(draw(seen.first(latents.double()).detach().float()), "step 0"))


class _Last(Callback):
    first: nn.Module

    def on_fit_start(self, trainer: Any, module: GAN) -> None:
        self.first = copy.deepcopy(module.game.generator)


def test_samples_that_are_not_finite_are_not_drawn(tmp_path: Path) -> None:
    class Diverge(Callback):
        def on_train_batch_end(self, trainer: Any, module: GAN, *_: Any) -> None:
            nn.init.constant_(module.game.generator[2].bias, float("nan") if trainer.global_step == 2 else 0.0)

    callbacks = [Diverge(), SamplePictures(1, n=8)]
    fit(small_gan(), GivenData(rounds(2), 4), 2, callbacks=callbacks, default_root_dir=tmp_path)
    assert sorted(pictures(tmp_path)) == [0, 1]


def test_pictures_do_not_change_the_training(tmp_path: Path) -> None:
    trained = []
    for callbacks in ([], [SamplePictures(1, n=16)]):
        torch.manual_seed(5)
        gan = small_gan(ema_decay=0.9)
        gan.game.generator.insert(1, nn.BatchNorm1d(8).double())
        gan.average.network["generator"].insert(1, nn.BatchNorm1d(8).double())  # type: ignore[union-attr]
        fit(gan, GivenData(rounds(6), 4), 6, callbacks=callbacks, default_root_dir=tmp_path)
        trained.append((gan.state_dict(), torch.get_rng_state()))
    (plain, plain_stream), (pictured, pictured_stream) = trained
    assert len(pictures(tmp_path)) == 7
    for name, weight in plain.items():
        assert torch.equal(weight, pictured[name]), name
    assert torch.equal(plain_stream, pictured_stream)


def test_a_resumed_run_goes_on_after_the_last_picture(tmp_path: Path) -> None:
    run: dict[str, Any] = {"callbacks": [SamplePictures(2, n=8)], "default_root_dir": tmp_path}
    fit(small_gan(), GivenData(rounds(8), 4), 5, **run).save_checkpoint(tmp_path / "a.ckpt")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "samples").iterdir()}
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        max_steps=9, accelerator="cpu", enable_checkpointing=False, log_every_n_steps=10**9, **quiet, **run
    )
    trainer.fit(small_gan(), datamodule=GivenData(rounds(8), 4), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert sorted(before) == ["0000000.png", "0000002.png", "0000004.png", "0000005.png"]
    # Lightning counts the epoch that max_steps cut as ended: batches of two rounds make up for those that it lacks
    assert sorted(pictures(tmp_path)) == [0, 2, 4, 5, 7, 9]
    for name, written in before.items():
        assert (tmp_path / "samples" / name).stat().st_mtime_ns == written


def test_images_of_a_run_are_a_grid_of_the_asked_number(tmp_path: Path) -> None:
    generator = nn.Sequential(nn.Linear(3, 16), nn.Unflatten(1, (1, 4, 4)), nn.Tanh())
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(16, 1), nn.Flatten(0))
    gan = small_gan(generator=generator, discriminator=discriminator).float()
    images = torch.rand(1, 4, 1, 4, 4)
    fit(gan, GivenData(images, 4), 1, callbacks=[SamplePictures(5, n=9)], default_root_dir=tmp_path)
    expected = gan.sample(9, latents=torch.randn(9, 3, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(pictures(tmp_path)[1], draw(expected))


class _Plain(LightningDataModule):
    """A data module that knows nothing of pictures."""

    sample_shape = (2,)
    rounds_per_epoch = rounds_per_batch = 1

    def metrics(self) -> dict[str, Any]:
        return {}

    def train_dataloader(self) -> "_OneRound":
        return _OneRound()


class _OneRound:
    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Rounds]:
        return iter([Rounds(rounds(1)[None, None])])


@pytest.mark.parametrize("n", [None, 9])
def test_data_without_a_picture_of_its_own_is_drawn_by_its_shape(tmp_path: Path, n: int | None) -> None:
    torch.manual_seed(3)
    gan = small_gan()
    fit(gan, _Plain(), 1, callbacks=[SamplePictures(5, n)], default_root_dir=tmp_path)  # type: ignore[arg-type]
    latents = torch.randn(n or 64, 3, generator=torch.Generator().manual_seed(3))
    drawn = draw(gan.sample(len(latents), latents=latents).float())
    assert torch.equal(pictures(tmp_path)[1], captioned(drawn, "step 1"))


@pytest.mark.parametrize(("critic_steps", "accumulate"), [(1, 1), (2, 2)])
def test_the_real_picture_is_of_the_first_batch_as_many_as_there_are(
    tmp_path: Path, critic_steps: int, accumulate: int
) -> None:
    given = torch.randn(3, 4 * critic_steps * accumulate, 2, dtype=torch.double)
    data = GivenData(given, 4, rounds_per_batch=2)
    gan = small_gan(critic_steps=critic_steps, accumulate_grad_batches=accumulate)
    fit(gan, data, 3, callbacks=[SamplePictures(1, n=6)], default_root_dir=tmp_path)
    expected = captioned(draw(given.flatten(0, 1)[:6].float()), "real data")
    assert torch.equal(pil_to_tensor(Image.open(tmp_path / "real.png")), expected)


def test_tensorboard_gets_the_real_picture_once_and_histograms_of_both_outputs(tmp_path: Path) -> None:
    torch.manual_seed(31)
    gan, given = small_gan(), rounds(6)
    loggers = {"logger": EventFile(str(tmp_path)), "default_root_dir": tmp_path}
    fit(gan, GivenData(given, 4), 6, callbacks=[SamplePictures(3, n=6)], **loggers)
    log = EventAccumulator(str(tmp_path), size_guidance={"images": 0, "histograms": 0}).Reload()
    assert [event.step for event in log.Images("real")] == [0]
    assert [event.step for event in log.Images("samples")] == [0, 3, 6]
    latents = torch.randn(6, 3, generator=torch.Generator().manual_seed(31))[: len(given[0])]
    fake = gan.game.generator(latents.double()).detach()
    for name, x in (("real", given[0]), ("fake", fake)):
        events = log.Histograms(f"outputs/{name}")
        assert [event.step for event in events] == [3, 6]
        d = torch.sigmoid(gan.game.discriminator(x).detach())
        found, expected = events[-1].histogram_value, torch.stack([d.sum(), d.min(), d.max()]).tolist()
        assert (found.num, found.sum, found.min, found.max) == pytest.approx((4, *expected))


def test_both_losses_share_a_chart(tmp_path: Path) -> None:
    options = {"logger": EventFile(str(tmp_path)), "log_every_n_steps": 1}
    fit(small_gan(regularizers=[R1(1.0)]), GivenData(rounds(2), 4), 2, **options)
    log = EventAccumulator(str(tmp_path)).Reload()
    (event,) = log.Tensors("custom_scalars__config__")
    layout = Layout.FromString(event.tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for category in layout.category for chart in category.chart}
    curves = log.Tags()["scalars"]
    shown = {title: [c for c in curves if any(re.search(tag, c) for tag in tags)] for title, tags in charts.items()}
    assert sorted(shown["losses"]) == ["loss/discriminator", "loss/generator"]
    assert all(len(lines) == 2 for lines in shown.values())
    assert "loss/discriminator/r1" in curves  # a penalty has a curve of its own
