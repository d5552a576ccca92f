"""Pictures: when, what is in them, and that they leave the training alone."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import GivenData, fit, small_gan
from lightning import Callback, Trainer
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from gan_lightning import priors
from gan_lightning.callbacks.samples import SamplePictures, draw, image_grid, write_png
from gan_lightning.data.bits import EvenIntegers
from gan_lightning.data.loader import RealData
from gan_lightning.data.synthetic import Synthetic
from gan_lightning.distributions import GaussianMixture, gaussian, grid, ring
from gan_lightning.gan import GAN


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
    fit(small_gan(), data, steps, callbacks=[SamplePictures(every, points=16)], default_root_dir=tmp_path)
    assert sorted(pictures(tmp_path)) == expected


class _Spoil(Callback):
    """Sets the generator to known weights, and draws random numbers as a neighbour might."""

    def on_train_batch_end(self, trainer: Any, module: GAN, *_: Any) -> None:
        torch.manual_seed(99)
        nn.init.constant_(module.generator[2].weight, trainer.global_step % 2)


def test_the_same_latents_are_pictured_each_time(tmp_path: Path) -> None:
    gan = small_gan(
        generator_optimizer=lambda p: torch.optim.SGD(p, lr=1e-30),
        discriminator_optimizer=lambda p: torch.optim.SGD(p, lr=1e-30),
    )
    # weights alternate between two states, so equal states must give equal pictures and others other ones
    callbacks = [_Spoil(), SamplePictures(1, points=64)]
    fit(gan, GivenData(rounds(4), 4), 4, callbacks=callbacks, default_root_dir=tmp_path)
    taken = pictures(tmp_path)
    assert torch.equal(taken[1], taken[3])
    assert torch.equal(taken[2], taken[4])
    assert not torch.equal(taken[1], taken[2])


def test_pictures_show_the_averaged_generator_at_latents_from_the_seed(tmp_path: Path) -> None:
    gan = small_gan(ema_decay=0.5)
    seen = _Last()
    callbacks = [SamplePictures(2, points=50), seen]
    torch.manual_seed(31)
    fit(gan, GivenData(rounds(4), 4), 4, callbacks=callbacks, default_root_dir=tmp_path)
    latents = torch.randn(50, 3, generator=torch.Generator().manual_seed(31))
    assert gan.average is not None
    expected = draw(gan.average.network(latents.double()).float(), GivenData(rounds(1), 4))
    taken = pictures(tmp_path)
    assert torch.equal(taken[4], expected)
    assert torch.equal(taken[0], draw(seen.first(latents.double()).detach().float(), GivenData(rounds(1), 4)))


class _Last(Callback):
    first: nn.Module

    def on_fit_start(self, trainer: Any, module: GAN) -> None:
        self.first = copy.deepcopy(module.generator)


def test_samples_that_are_not_finite_are_not_drawn(tmp_path: Path) -> None:
    class Diverge(Callback):
        def on_train_batch_end(self, trainer: Any, module: GAN, *_: Any) -> None:
            nn.init.constant_(module.generator[2].bias, float("nan") if trainer.global_step == 2 else 0.0)

    callbacks = [Diverge(), SamplePictures(1, points=8)]
    fit(small_gan(), GivenData(rounds(2), 4), 2, callbacks=callbacks, default_root_dir=tmp_path)
    assert sorted(pictures(tmp_path)) == [0, 1]


def test_pictures_do_not_change_the_training(tmp_path: Path) -> None:
    trained = []
    for callbacks in ([], [SamplePictures(1, points=16)]):
        torch.manual_seed(5)
        gan = small_gan(ema_decay=0.9)
        gan.generator.insert(1, nn.BatchNorm1d(8).double())
        gan.average.network.insert(1, nn.BatchNorm1d(8).double())  # type: ignore[union-attr]
        fit(gan, GivenData(rounds(6), 4), 6, callbacks=callbacks, default_root_dir=tmp_path)
        trained.append((gan.state_dict(), torch.get_rng_state()))
    (plain, plain_stream), (pictured, pictured_stream) = trained
    assert len(pictures(tmp_path)) == 7
    for name, weight in plain.items():
        assert torch.equal(weight, pictured[name]), name
    assert torch.equal(plain_stream, pictured_stream)


def test_a_resumed_run_goes_on_after_the_last_picture(tmp_path: Path) -> None:
    run: dict[str, Any] = {"callbacks": [SamplePictures(2, points=8)], "default_root_dir": tmp_path}
    fit(small_gan(), GivenData(rounds(8), 4), 5, **run).save_checkpoint(tmp_path / "a.ckpt")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "samples").iterdir()}
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        max_steps=9, accelerator="cpu", enable_checkpointing=False, log_every_n_steps=10**9, **quiet, **run
    )
    trainer.fit(small_gan(), datamodule=GivenData(rounds(8), 4), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert sorted(before) == ["0000000.png", "0000002.png", "0000004.png", "0000005.png"]
    assert sorted(pictures(tmp_path)) == [0, 2, 4, 5, 6, 8, 9]
    for name, written in before.items():
        assert (tmp_path / "samples" / name).stat().st_mtime_ns == written


# --------------------------------------------------------------------------------------------------- the drawings


def points(distribution: GaussianMixture | None) -> RealData:
    """Data of a known density or of none."""
    return GivenData(rounds(1), 4) if distribution is None else Synthetic(distribution, 4, 1, 4)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_grid_holds_each_image_in_its_cell(channels: int) -> None:
    images = torch.rand(9, channels, 5, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1
    picture = image_grid(images)
    factor = 512 // (3 * 7 + 2)
    assert picture.shape == (3, factor * 23, factor * 23)
    small = picture[:, factor // 2 :: factor, factor // 2 :: factor]  # one pixel of each enlarged one
    assert torch.equal(small.repeat_interleave(factor, 1).repeat_interleave(factor, 2), picture)
    for i, image in enumerate(images):
        top, left = 2 + 7 * (i // 3), 2 + 7 * (i % 3)
        cell = small[:, top : top + 5, left : left + 5].float()
        expected = ((image + 1) / 2 * 255).round().expand(3, 5, 5)
        assert (cell - expected).abs().max() <= 1
    border = small.clone()
    for i in range(9):
        top, left = 2 + 7 * (i // 3), 2 + 7 * (i % 3)
        border[:, top : top + 5, left : left + 5] = 0
    assert not border.any()


def test_values_outside_the_range_are_clamped_not_wrapped() -> None:
    picture = image_grid(torch.tensor([-3.0, 3.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4))
    assert picture[0, picture.shape[1] // 2, picture.shape[2] // 4] == 0
    assert picture[0, picture.shape[1] // 2, 3 * picture.shape[2] // 4] == 255


def test_the_range_of_the_data_is_black_to_white() -> None:
    images = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    picture = image_grid(images, (0.0, 1.0))
    assert set(picture.unique().tolist()) == {0, 255}
    assert set(image_grid(images, (-1.0, 1.0)).unique().tolist()) == {0, 128, 255}  # 0 is the borders'


@pytest.mark.parametrize(
    ("distribution", "dimensions"), [(gaussian(), 1), (None, 1), (ring(), 2), (grid(), 2), (None, 2)]
)
def test_points_are_drawn_in_colour_and_not_blank(distribution: Any, dimensions: int, tmp_path: Path) -> None:
    noise = torch.Generator().manual_seed(1)
    data = points(distribution)
    picture = draw(torch.randn(500, dimensions, generator=noise), data)
    assert picture.dtype == torch.uint8
    assert picture.dim() == 3
    assert picture.shape[0] == 3
    assert min(picture.shape[1:]) >= 300
    assert len(picture.flatten(1).unique(dim=1).T) > 10
    assert not torch.equal(picture, draw(torch.randn(500, dimensions, generator=noise), data))
    write_png(picture, tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (picture.shape[2], picture.shape[1]))
        assert torch.equal(pil_to_tensor(image), picture)


def test_a_histogram_shows_where_the_samples_are() -> None:
    """Nine in ten samples on the left leave nine in ten coloured pixels there."""
    samples = torch.cat([torch.full((900, 1), -2.0), torch.full((100, 1), 2.0)])
    samples += 0.3 * torch.randn(1000, 1, generator=torch.Generator().manual_seed(2))
    picture = draw(samples, points(None)).float()
    blue = (picture[2] - picture[0] > 60).float()  # the bars' colour, neither black, white nor grey
    half = picture.shape[2] // 2
    left, right = blue[:, :half].sum().item(), blue[40:, half:].sum().item()
    assert left > 4 * right > 0


def test_a_collapsed_generator_is_drawn_too() -> None:
    for samples, distribution in ((torch.zeros(50, 1), gaussian()), (torch.zeros(50, 1), None)):
        assert draw(samples, points(distribution)).shape[0] == 3
    for samples in (torch.zeros(50, 2), torch.full((50, 2), 1e6)):
        assert draw(samples, points(ring())).shape[0] == 3


def test_images_of_a_run_are_a_grid_of_the_asked_number(tmp_path: Path) -> None:
    generator = nn.Sequential(nn.Linear(3, 16), nn.Unflatten(1, (1, 4, 4)), nn.Tanh())
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(16, 1), nn.Flatten(0))
    sgd = small_gan().generator_optimizer
    gan = GAN(generator, discriminator, small_gan().loss, priors.Normal(3), sgd, sgd)
    images = torch.rand(1, 4, 1, 4, 4)
    fit(gan, GivenData(images, 4), 1, callbacks=[SamplePictures(5, images=9)], default_root_dir=tmp_path)
    expected = gan.sample(9, latents=torch.randn(9, 3, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(pictures(tmp_path)[1], image_grid(expected))


def test_odd_integers_are_red_and_even_ones_are_not() -> None:
    """Samples are bits, the lowest last."""
    data = EvenIntegers(8, 4, rounds_per_epoch=1, validation_samples=4)
    even = torch.tensor([[0, 0, 0], [0, 1, 0], [1, 1, 0]]).float().repeat(10, 1)
    odd = even + torch.tensor([0.0, 0.0, 1.0])

    def red(samples: Tensor) -> int:
        picture = draw(samples, data).int()[:, 60:]  # below the legend
        return int(((picture[0] - picture[2] > 100) & (picture[0] - picture[1] > 100)).sum())

    assert red(even) == 0
    assert red(odd) > red(torch.cat([even, odd])) > 0
