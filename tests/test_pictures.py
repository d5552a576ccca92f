"""Pictures of samples: each image in its cell, points where they are, in colors that tell them apart."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import GivenData
from PIL import Image
from torch import Tensor
from torch.distributions import MultivariateNormal
from torchvision.transforms.functional import pil_to_tensor

from gan_lightning.batch import Batch
from gan_lightning.data.bits import EvenIntegers
from gan_lightning.data.loader import RealData
from gan_lightning.data.synthetic import Synthetic
from gan_lightning.distributions import GaussianMixture, gaussian, grid, ring
from gan_lightning.figures import above, rasterize
from gan_lightning.pictures import histogram, image_grid, marginals, scatter, write_png


def points(distribution: GaussianMixture | None) -> RealData:
    """Data of a known density or of none."""
    return GivenData(torch.zeros(1, 4, 2), 4) if distribution is None else Synthetic(distribution, 4, 1, 4)


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
        border[:, top : top + 5, left : left + 5] = 255
    assert (border == 255).all()


def test_an_unfilled_row_ends_in_background() -> None:
    """Eight black images in a square of nine: no black where the ninth would be."""
    picture = image_grid(-torch.ones(8, 1, 5, 5))
    factor = 512 // (3 * 7 + 2)
    assert picture.shape == (3, factor * 23, factor * 23)
    assert (picture[:, factor * 15 :, factor * 15 :] == 255).all()
    assert (picture == 0).sum() == 3 * 8 * (5 * factor) ** 2


@pytest.mark.parametrize(("channels", "seen"), [(2, [0, 0, 0]), (4, [0, 1, 2])])
def test_other_channels_than_colors_are_left_out(channels: int, seen: list[int]) -> None:
    images = torch.rand(4, channels, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(image_grid(images, (0.0, 1.0)), image_grid(images[:, seen], (0.0, 1.0)))


def test_values_outside_the_range_are_clamped_not_wrapped() -> None:
    picture = image_grid(torch.tensor([-3.0, 3.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4))
    assert picture[0, picture.shape[1] // 2, picture.shape[2] // 4] == 0
    assert picture[0, picture.shape[1] // 2, 3 * picture.shape[2] // 4] == 255


def test_the_range_of_the_data_is_black_to_white() -> None:
    images = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    picture = image_grid(images, (0.0, 1.0))
    assert set(picture.unique().tolist()) == {0, 255}
    assert set(image_grid(images, (-1.0, 1.0)).unique().tolist()) == {128, 255}


@pytest.mark.parametrize(
    ("distribution", "dimensions"), [(gaussian(), 1), (None, 1), (ring(), 2), (grid(), 2), (None, 2)]
)
def test_points_are_drawn_in_color_and_not_blank(distribution: Any, dimensions: int, tmp_path: Path) -> None:
    noise = torch.Generator().manual_seed(1)
    data = points(distribution)
    picture = data.picture(Batch(torch.randn(500, dimensions, generator=noise)))
    assert picture.dtype == torch.uint8
    assert picture.dim() == 3
    assert picture.shape[0] == 3
    assert min(picture.shape[1:]) >= 300
    assert len(picture.flatten(1).unique(dim=1).T) > 10
    assert not torch.equal(picture, data.picture(Batch(torch.randn(500, dimensions, generator=noise))))
    write_png(picture, tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (picture.shape[2], picture.shape[1]))
        assert torch.equal(pil_to_tensor(image), picture)


def test_a_histogram_shows_where_the_samples_are() -> None:
    """Nine in ten samples on the left leave nine in ten colored pixels there."""
    samples = torch.cat([torch.full((900, 1), -2.0), torch.full((100, 1), 2.0)])
    samples += 0.3 * torch.randn(1000, 1, generator=torch.Generator().manual_seed(2))
    picture = points(None).picture(Batch(samples)).float()
    blue = (picture[2] - picture[0] > 60).float()  # the bars' color, neither black, white nor gray
    half = picture.shape[2] // 2
    left, right = blue[:, :half].sum().item(), blue[40:, half:].sum().item()
    assert left > 4 * right > 0


def test_a_collapsed_generator_is_drawn_too() -> None:
    for samples, distribution in ((torch.zeros(50, 1), gaussian()), (torch.zeros(50, 1), None)):
        assert points(distribution).picture(Batch(samples)).shape[0] == 3
    for samples in (torch.zeros(50, 2), torch.full((50, 2), 1e6)):
        assert points(ring()).picture(Batch(samples)).shape[0] == 3


def test_a_picture_is_filled_and_few_limits_occur_over_a_run() -> None:
    """Axes are drawn once per pair of limits: seven of them from 0.01 to 1, where samples of integers can be."""
    values = torch.logspace(-2, 0, 500, dtype=torch.double).tolist()
    limits = [above(value) for value in values]
    assert all(value <= limit <= 2.5 * value for value, limit in zip(values, limits, strict=True))
    assert sorted(set(limits)) == pytest.approx([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0], rel=1e-12)
    assert above(3e-12) == pytest.approx(5e-12)
    assert above(7e40) == pytest.approx(1e41)


def test_odd_integers_are_red_and_even_ones_are_not() -> None:
    """Samples are bits, the lowest last."""
    data = EvenIntegers(8, 4, rounds_per_epoch=1, validation_samples=4)
    even = torch.tensor([[0, 0, 0], [0, 1, 0], [1, 1, 0]]).float().repeat(10, 1)
    odd = even + torch.tensor([0.0, 0.0, 1.0])

    def red(samples: Tensor) -> int:
        picture = data.picture(Batch(samples)).int()[:, 60:]  # below the legend
        return int(((picture[0] - picture[2] > 100) & (picture[0] - picture[1] > 100)).sum())

    assert red(even) == 0
    assert red(odd) > red(torch.cat([even, odd])) > 0


@pytest.mark.parametrize("shape", [(), (1,), (2,), (3,), (5,), (1, 7), (2, 3, 4, 5)])
def test_data_of_any_shape_draws_itself(shape: tuple[int, ...]) -> None:
    data = GivenData(torch.zeros(1, 4, *shape), 4)
    picture = data.picture(Batch(torch.randn(30, *shape, generator=torch.Generator().manual_seed(0))))
    assert (picture.dtype, picture.shape[0]) == (torch.uint8, 3)
    assert len(picture.flatten(1).unique(dim=1).T) > 10


@pytest.mark.parametrize(("shape", "n"), [((1, 28, 28), 64), ((3, 8, 8), 64), ((1,), 10_000), ((2,), 10_000)])
def test_how_many_samples_a_picture_takes(shape: tuple[int, ...], n: int) -> None:
    assert GivenData(torch.zeros(1, 4, *shape), 4).shown == n


@pytest.mark.parametrize(
    ("distribution", "dimensions", "legend"),
    [
        (ring(), 2, ["true modes", "samples"]),
        (grid(), 2, ["true modes", "samples"]),
        (None, 2, ["samples"]),
        (MultivariateNormal(torch.zeros(3), torch.eye(3)), 3, ["true samples", "samples"]),
    ],
)
def test_a_scatter_names_its_axes_and_has_a_legend_that_can_be_seen(
    distribution: Any, dimensions: int, legend: list[str]
) -> None:
    (axes,) = scatter(torch.randn(40, dimensions), distribution).axes
    assert axes.get_xlabel().startswith("$x_1$")
    assert ("3 coordinates" in axes.get_xlabel()) == (dimensions == 3)
    assert axes.get_ylabel() == "$x_2$"
    shown = axes.get_legend()
    assert [text.get_text() for text in shown.get_texts()] == legend
    for handle in shown.legend_handles:
        assert handle.get_alpha() == 1
        assert handle.get_sizes().min() >= 25  # square points


def test_a_scatter_shows_the_first_two_coordinates() -> None:
    samples = torch.randn(40, 5)
    (axes,) = scatter(samples).axes
    assert torch.equal(torch.tensor(axes.collections[-1].get_offsets()).float(), samples[:, :2])


def test_true_samples_leave_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    data = Synthetic(MultivariateNormal(torch.zeros(2), torch.eye(2)), 4, 1, 4)
    first, second = (data.picture(Batch(torch.zeros(4, 2))) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)


def test_all_classes_have_colors_of_their_own() -> None:
    """The first and the last, too, between which a wheel of colors closes."""
    figure = scatter(torch.zeros(8, 2), None, torch.arange(8))
    (points,) = figure.axes[0].collections
    points.update_scalarmappable()
    colors = points.get_facecolor()[:, :3]
    assert min(abs(colors[i] - colors[k]).max() for i in range(8) for k in range(i)) > 0.2


def test_names_of_columns_are_no_formulas() -> None:
    """Two dollar signs would begin and end one."""
    names = ["Profit $ (% of sales $)", "a ($) / b ($)", "c"]
    plain = marginals(torch.randn(50, 3), names=names)
    rasterize(plain)
    shown = [axes.get_xlabel() for axes in plain.axes if axes.get_xlabel()]
    assert [label.replace(r"\$", "$") for label in shown] == names


def test_a_column_of_large_numbers_has_a_histogram() -> None:
    """A few units apart, where floats are 128 apart."""
    samples = 1e18 + torch.arange(500.0, dtype=torch.double)[:, None] / 10
    assert histogram(samples, reference=samples).shape[0] == 3
