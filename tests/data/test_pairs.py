"""Paired images: each input with its own target, wherever they are served, and what are no pairs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import counts, served
from PIL import Image
from test_configs import write_mnist
from torch import Tensor
from torch.testing import assert_close

from gan_lightning.batch import Batch
from gan_lightning.data.pairs import MNISTEdges, PairedFolder, outline
from gan_lightning.errors import UsageError
from gan_lightning.metrics.reconstruction import L1

SIDE = 8


def write(folder: Path, names: list[str]) -> None:
    """A of each pair is a gradient from left to right that begins at its number, B its negative."""
    for side in "AB":
        (folder / side).mkdir(parents=True)
    for i, name in enumerate(names):
        pixels = np.tile(10 * i + np.arange(SIDE, dtype=np.uint8), (SIDE, 1))
        Image.fromarray(pixels).save(folder / "A" / name)
        Image.fromarray(255 - pixels).save(folder / "B" / name)


def paired(folder: Path, **options: Any) -> PairedFolder:
    data = PairedFolder(str(folder), 4, SIDE, 1, cache=str(folder.parent / "cache"), **options)
    data.trainer = counts()
    data.setup()
    return data


@pytest.mark.parametrize("flips", [False, True])
def test_every_input_comes_with_its_target(tmp_path: Path, flips: bool) -> None:
    write(tmp_path / "train", [f"{i:02}.png" for i in range(9)])
    write(tmp_path / "test", [f"{i:02}.png" for i in range(12)])
    data = paired(tmp_path / "train", held_out=str(tmp_path / "test"), validation_samples=12, horizontal_flips=flips)
    rounds = served(data.train_dataloader(), 5)
    mirrored = []
    for batch in [
        *(Batch(r.x.flatten(0, 3), r.y.flatten(0, 3)) for r in rounds),
        *data.val_dataloader(),
        data.training_samples(9, 0),
        data.held_out_samples(5),
    ]:
        assert batch.x.shape == batch.y.shape == (len(batch.x), 1, SIDE, SIDE)
        assert_close(batch.y + batch.x, torch.zeros_like(batch.x), atol=1e-6, rtol=0)
        mirrored += (batch.y[:, 0, 0, 0] > batch.y[:, 0, 0, -1]).tolist()
    assert any(mirrored) == flips
    assert not all(mirrored)
    assert len(data.held_out_samples(20).x) == 12


def test_without_held_out_pairs_training_ones_are_shown(tmp_path: Path) -> None:
    write(tmp_path / "train", [f"{i}.png" for i in range(6)])
    data = paired(tmp_path / "train")
    assert len(data.held_out_samples(4).x) == 4
    assert len(data.held_out_samples(40).x) == 6
    with pytest.raises(UsageError, match=r"data\.held_out is not set: give a folder with A and B"):
        paired(tmp_path / "train", validation_samples=10)


def test_a_subset_keeps_pairs_together(tmp_path: Path) -> None:
    write(tmp_path / "train", [f"{i:02}.png" for i in range(9)])
    data = paired(tmp_path / "train", subset=4)
    assert data.images.shape == (4, 2, SIDE, SIDE)
    assert_close(data.images.sum(1), torch.full((4, SIDE, SIDE), 255))


def test_scores_on_other_held_out_pairs_are_told_apart(tmp_path: Path) -> None:
    """``best.ckpt`` is chosen anew for them."""
    names = [f"{i:02}.png" for i in range(10)]
    for place in ("train", "held_out", "copy", "other"):
        write(tmp_path / place, names)
    Image.fromarray(np.zeros((SIDE, SIDE), dtype=np.uint8)).save(tmp_path / "other" / "B" / "03.png")
    given, copied, other = (
        paired(tmp_path / "train", held_out=str(tmp_path / place), validation_samples=10).held_out_digest
        for place in ("held_out", "copy", "other")
    )
    assert given is not None
    assert given == copied != other


def test_folders_whose_names_differ_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "train", ["a.png", "b.png"])
    (tmp_path / "train" / "B" / "b.png").rename(tmp_path / "train" / "B" / "c.png")
    with pytest.raises(UsageError, match=r"A has b\.png, which is missing in .*B, .* \(2 such files\): give both"):
        paired(tmp_path / "train")


def test_pairs_are_held_in_memory(tmp_path: Path) -> None:
    write(tmp_path / "train", ["a.png"])
    sentence = r"takes more than .*, but must be held in memory: give a higher limit or a smaller data\.size\.$"
    with pytest.raises(UsageError, match=sentence):
        paired(tmp_path / "train", memory_limit=1e-9)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(UsageError, match=r"train/A is not a folder"):
        paired(tmp_path / "train")


def test_an_outline_is_what_touches_the_inside() -> None:
    image = torch.zeros(28, 28, dtype=torch.uint8)
    image[5:9, 3:20] = 200
    image[20, 27] = 128
    image[15, 15] = 127  # not inside
    inside = image.numpy() > 127
    expected = np.zeros((28, 28), dtype=np.uint8)
    for i in range(28):
        for j in range(28):
            near = inside[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].any()
            expected[i, j] = 255 if near and not inside[i, j] else 0
    assert torch.equal(outline(image[None, None])[0, 0], torch.from_numpy(expected))


def test_mnist_is_paired_with_its_outlines(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    data = MNISTEdges(str(tmp_path), 16, download=False)
    data.trainer = counts()
    data.setup()
    (rounds,) = served(data.train_dataloader(), 1)
    y, x = rounds.y.flatten(0, 3), rounds.x.flatten(0, 3)
    assert torch.equal(((y + 1) * 127.5).round().byte(), outline(((x + 1) * 127.5).round().byte()))
    assert data.classes == 0
    assert torch.equal(
        ((data.conditions(20) + 1) * 127.5).round().byte(),
        outline(data.images[torch.arange(20) % len(data.images), 1:]),
    )


def test_l1_is_a_mean_over_pairs_and_pixels() -> None:
    generated, real = (torch.rand(7, 1, 4, 4, generator=torch.Generator().manual_seed(i)) * 2 - 1 for i in range(2))
    metric = L1((-1.0, 1.0))

    def parts(images: Tensor) -> list[Batch]:
        return [Batch(part) for part in images.split([5, 2])]

    for g, r in zip(parts(generated), parts(real), strict=True):
        metric.update(g, r)
    expected = np.abs(generated.double().numpy() - real.double().numpy()).mean() / 2
    assert_close(metric.compute().double(), torch.tensor(expected), atol=1e-6, rtol=0)
