"""Image sets: their files, their order, and the same batches from memory and from worker processes."""

import gc
import hashlib
import io
import math
import os
import pickle
import re
import struct
import traceback
from multiprocessing import active_children
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import counts, placed, served
from PIL import Image
from torch import Tensor
from torch.testing import assert_close
from torchvision import datasets

from gan_lightning.data.decode import read_image
from gan_lightning.data.fetch import RoundOrder
from gan_lightning.data.folder import ImageFolder
from gan_lightning.data.images import ImageData
from gan_lightning.data.loader import RoundShape
from gan_lightning.data.torchvision import CIFAR10, MNIST, FashionMNIST, check_idx
from gan_lightning.errors import UsageError
from gan_lightning.pixels import from_bytes, to_bytes

RANDOM = np.random.default_rng(0)
TINY = 1e-9  # GiB
LABELS = np.array([5, 0, 4, 1, 9, 2, 1, 3, 1, 4], dtype=np.uint8)


def ready(data: ImageData, on: SimpleNamespace | None = None) -> Any:
    """The data module set up beside a trainer."""
    data.trainer = on or counts()
    data.setup()
    return data


def batches(data: ImageData, n: int, position: int = 0) -> Tensor:
    """n batches from a round on, over as many epochs as that takes."""
    loader = placed(data.train_dataloader(), position)
    return torch.cat([batch.x for batch in served(loader, n)])


# ----------------------------------------------------------------------------------------------- pixels and order


def test_unit_range() -> None:
    bytes_ = torch.arange(256, dtype=torch.uint8)
    values = from_bytes(bytes_, (-1.0, 1.0))
    assert (values[0], values[255]) == (-1.0, 1.0)
    assert values.dtype == torch.float32
    assert_close(values.double(), torch.from_numpy(np.arange(256) / 255 * 2 - 1), rtol=0, atol=1e-6)
    assert bytes_[255] == 255  # not in place


def order(images: int, seed: int = 0, ranks: int = 1, rank: int = 0, batch_size: int = 6) -> RoundOrder:
    return RoundOrder(images, RoundShape(2, 1, ranks, rank, batch_size), seed, horizontal_flips=True)


@pytest.mark.parametrize(("images", "rounds"), [(48, 4), (50, 4), (12, 1), (59, 4)])
def test_an_epoch_shows_every_image_at_most_once(images: int, rounds: int) -> None:
    """And exactly once where the rounds divide the images."""
    sequence = order(images)
    assert sequence.rounds_per_epoch == rounds
    for epoch in range(3):
        shown = torch.cat([sequence.indices(epoch * rounds + r).flatten() for r in range(rounds)]).tolist()
        assert len(set(shown)) == len(shown) == 12 * rounds
        assert set(shown) <= set(range(images))


def test_every_epoch_is_a_new_permutation() -> None:
    sequence = order(48)
    epochs = [torch.cat([sequence.indices(4 * epoch + r).flatten() for r in range(4)]) for epoch in range(5)]
    for i, first in enumerate(epochs):
        assert not torch.equal(first, torch.arange(48))
        assert not any(torch.equal(first, second) for second in epochs[i + 1 :])


def test_images_left_out_of_one_epoch_come_in_another() -> None:
    sequence = order(59)
    shown = torch.cat([sequence.indices(r).flatten() for r in range(4 * 20)])
    assert set(shown.tolist()) == set(range(59))


def test_the_order_depends_on_the_round_and_the_seed_alone() -> None:
    straight = order(50)
    expected = [straight.indices(r) for r in range(12)]
    hopping = order(50)
    for r in (11, 0, 7, 3, 4, 8, 3):
        assert torch.equal(hopping.indices(r), expected[r])
    assert not torch.equal(order(50, seed=1).indices(0), expected[0])


def test_flips_are_deterministic_and_about_half() -> None:
    """4 standard errors of a fair coin."""
    sequence, n = order(50), 12 * 500
    flips = torch.stack([sequence.flips(r) for r in range(500)])
    assert flips.shape == (500, 2, 1, 6)
    assert abs(flips.float().mean().item() - 0.5) < 4 * 0.5 / math.sqrt(n)
    assert torch.equal(order(50).flips(17), flips[17])
    assert not torch.equal(order(50, seed=1).flips(17), flips[17])


def test_an_image_is_flipped_in_one_epoch_and_not_in_another() -> None:
    sequence = order(12)
    of_image_0 = {bool(sequence.flips(r)[sequence.indices(r) == 0]) for r in range(20)}
    assert of_image_0 == {True, False}


def test_ranks_share_out_order_and_flips() -> None:
    one, two = order(50, batch_size=6), [order(50, ranks=2, rank=rank, batch_size=3) for rank in range(2)]
    for r in range(6):
        assert torch.equal(torch.cat([part.indices(r) for part in two], -1), one.indices(r))
        assert torch.equal(torch.cat([part.flips(r) for part in two], -1), one.flips(r))


# ---------------------------------------------------------------------------------------------------------- MNIST


def write_idx(path: Path, values: np.ndarray) -> None:
    """The format of the MNIST files: 0, 0, 8 for bytes, the number of dimensions, their sizes, the data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def write_mnist(root: Path, name: str = "MNIST", labels: np.ndarray = LABELS) -> np.ndarray:
    """A small set of random digits whose first pixel is their number; the training images, (n, 28, 28)."""
    images = RANDOM.integers(0, 256, (len(labels), 28, 28))
    images[:, 0, 0] = np.arange(len(labels))
    for part in ("train", "t10k"):
        write_idx(root / name / "raw" / f"{part}-images-idx3-ubyte", images)
        write_idx(root / name / "raw" / f"{part}-labels-idx1-ubyte", labels)
    return images


def mnist(root: Path, batch_size: int = 2, **options: Any) -> MNIST:
    return MNIST(str(root), batch_size, download=False, **options)


def test_mnist_reads_idx_files(tmp_path: Path) -> None:
    images = write_mnist(tmp_path)
    data = ready(mnist(tmp_path))
    assert data.images.dtype == torch.uint8
    assert torch.equal(data.images, torch.from_numpy(images)[:, None].to(torch.uint8))
    assert data.images.shape[1:] == data.sample_shape == (1, 28, 28)


@pytest.mark.parametrize("classes", [[1, 4], ["1", "4"], [4, "1"]])
def test_classes_by_number_and_by_name(tmp_path: Path, classes: list[int | str]) -> None:
    images = write_mnist(tmp_path)
    chosen = images[(LABELS == 1) | (LABELS == 4)]
    assert torch.equal(ready(mnist(tmp_path, classes=classes)).images[:, 0], torch.from_numpy(chosen).to(torch.uint8))


@pytest.mark.parametrize("classes", [[], [True], [1, False], [None], "3", 3, [1.0]])
def test_what_is_no_list_of_classes_is_refused(tmp_path: Path, classes: Any) -> None:
    with pytest.raises(ValueError, match=rf"^data\.classes is {re.escape(repr(classes))}: give a list of names"):
        mnist(tmp_path, classes=classes)


def test_fashion_classes_by_name(tmp_path: Path) -> None:
    images = write_mnist(tmp_path, "FashionMNIST")
    data = ready(FashionMNIST(str(tmp_path), 2, download=False, classes=["ankle boot", "sandal"]))
    chosen = images[(LABELS == 9) | (LABELS == 5)]
    assert torch.equal(data.images[:, 0], torch.from_numpy(chosen).to(torch.uint8))


@pytest.mark.parametrize("name", [10, -1, "eleven", "sandal"])
def test_a_wrong_class_is_refused(tmp_path: Path, name: int | str) -> None:
    write_mnist(tmp_path)
    with pytest.raises(ValueError, match=f"data.classes names {name!r}: MNIST has 0, 1, 2"):
        ready(mnist(tmp_path, classes=[3, name]))


@pytest.mark.parametrize("data", [MNIST, FashionMNIST, CIFAR10])
def test_a_missing_folder_is_named(tmp_path: Path, data: type[ImageData]) -> None:
    with pytest.raises(UsageError, match=f"{data.__name__} is not in data.root={tmp_path / 'nowhere'} "):
        ready(data(str(tmp_path / "nowhere"), 2, download=False))


@pytest.mark.parametrize("part", ["images-idx3", "labels-idx1"])
@pytest.mark.parametrize("size", [0, 3, 6, 7, -1])
def test_a_truncated_file_is_named(tmp_path: Path, part: str, size: int) -> None:
    """Cut in its magic number, its sizes or its data."""
    write_mnist(tmp_path)
    path = tmp_path / "MNIST" / "raw" / f"train-{part}-ubyte"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=f"{path} has {path.stat().st_size} bytes"):
        ready(mnist(tmp_path))


@pytest.mark.parametrize("content", [b"<html>404</html>", struct.pack(">HBBI", 0, 13, 1, 1) + b"1234", b"\0\0\x08\0"])
def test_what_is_no_idx_file_of_bytes_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "labels"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} has {len(content)} bytes, but its header announces no idx data"):
        check_idx(path)


def test_a_file_with_too_much_is_named(tmp_path: Path) -> None:
    write_idx(tmp_path / "labels", LABELS)
    check_idx(tmp_path / "labels")
    with (tmp_path / "labels").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ValueError, match="labels has 19 bytes, but its header announces 18"):
        check_idx(tmp_path / "labels")


def test_real_mnist(mnist_root: Path) -> None:
    """60,000 digits of mean .1307 and deviation .3081 in [0, 1], the first a 5, 5,421 of that class."""
    images = ready(mnist(mnist_root)).images
    assert images.shape == (60_000, 1, 28, 28)
    share = torch.bincount(images.flatten(), minlength=256).double() / images.numel()
    value = torch.arange(256, dtype=torch.double) / 255
    mean = (share * value).sum().item()
    deviation = (share * (value - mean) ** 2).sum().sqrt().item()
    assert (mean, deviation) == pytest.approx((0.1307, 0.3081), abs=5e-5)
    fives = ready(mnist(mnist_root, classes=[5])).images
    assert len(fives) == 5421
    assert torch.equal(fives[0], images[0])


# ------------------------------------------------------------------------------------------------------- CIFAR-10


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """The official pickles with four images each, and torchvision told their checksums; the pixels, (20, 3072)."""
    folder, names = tmp_path / "cifar-10-batches-py", [f"data_batch_{i}" for i in range(1, 6)]
    folder.mkdir()

    def write(name: str, content: dict[str, Any]) -> list[str]:
        written = pickle.dumps(content, protocol=2)
        (folder / name).write_bytes(written)
        return [name, hashlib.md5(written).hexdigest()]

    pixels = RANDOM.integers(0, 256, (20, 3072)).astype(np.uint8)
    parts = zip(names, np.split(pixels, 5), strict=True)
    train = [write(name, {"data": part, "labels": [0, 3, 5, 3]}) for name, part in parts]
    test = [write("test_batch", {"data": pixels[:1], "labels": [0]})]
    filename, md5 = write("batches.meta", {"label_names": list(CIFAR10.all_class_names)})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", train)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", test)
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": filename, "key": "label_names", "md5": md5})
    return pixels


def test_cifar_reads_planes_of_red_green_and_blue(tmp_path: Path, cifar: np.ndarray) -> None:
    data = ready(CIFAR10(str(tmp_path), 2, download=False))
    assert data.images.shape == (20, 3, 32, 32)
    assert data.sample_shape == (3, 32, 32)
    for image, row in zip(data.images, cifar, strict=True):
        for channel in range(3):
            plane = row[1024 * channel : 1024 * (channel + 1)]
            assert image[channel].flatten().tolist() == plane.tolist()


@pytest.mark.parametrize(("classes", "each_four"), [(["cat"], [1, 3]), ([0, "dog"], [0, 2]), (["ship"], [])])
def test_cifar_classes(tmp_path: Path, cifar: np.ndarray, classes: list[int | str], each_four: list[int]) -> None:
    data = ready(CIFAR10(str(tmp_path), 2, download=False, classes=classes))
    chosen = [row for i, row in enumerate(cifar) if i % 4 in each_four]
    assert [image.flatten().tolist() for image in data.images] == [row.tolist() for row in chosen]


@pytest.mark.usefixtures("cifar")
def test_a_broken_cifar_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"half of it")
    with pytest.raises(UsageError, match=r"CIFAR10 is not in .* \(Dataset not found or corrupted"):
        ready(CIFAR10(str(tmp_path), 2, download=False))


# ------------------------------------------------------------------------------------- batches of a set in memory


def test_an_epoch_of_the_loader(tmp_path: Path) -> None:
    """Every image once, and its pixels as they are in the file."""
    images = torch.from_numpy(write_mnist(tmp_path))
    data = ready(mnist(tmp_path, batch_size=1), counts(critic_steps=5))
    shown = batches(data, 2)
    assert shown.shape == (2, 5, 1, 1, 1, 28, 28)
    numbers = [round((image[0, 0, 0].item() + 1) * 127.5) for image in shown.flatten(0, 3)]
    assert sorted(numbers) == list(range(10))
    for number, image in zip(numbers, shown.flatten(0, 3), strict=True):
        assert_close(image[0].double(), images[number].double() / 127.5 - 1, rtol=0, atol=1e-6)


def test_flipped_images_are_mirrored_sideways(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    plain = batches(ready(mnist(tmp_path)), 20).flatten(0, 3)
    flipped = batches(ready(mnist(tmp_path, horizontal_flips=True)), 20).flatten(0, 3)
    mirrored = 0
    for before, after in zip(plain, flipped, strict=True):
        if not torch.equal(before, after):
            assert torch.equal(after[0], torch.from_numpy(np.fliplr(before[0].numpy()).copy()))
            mirrored += 1
    assert abs(mirrored - 20) < 4 * math.sqrt(40) / 2


def test_memory_goes_on_from_any_position(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    whole = batches(ready(mnist(tmp_path, horizontal_flips=True)), 12)
    for position in (1, 4, 5, 9):
        rest = batches(ready(mnist(tmp_path, horizontal_flips=True)), 12 - position, position)
        assert torch.equal(rest, whole[position:])


def test_several_rounds_in_a_batch_are_the_same_rounds(tmp_path: Path) -> None:
    """A batch ends with its epoch: four rounds and one, twice."""
    write_mnist(tmp_path)
    one = batches(ready(mnist(tmp_path, horizontal_flips=True)), 10)
    four = batches(ready(mnist(tmp_path, horizontal_flips=True, rounds_per_batch=4)), 4)
    assert torch.equal(four, one)


def test_ranks_share_out_the_batch(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    gan = {"critic_steps": 2}
    joined = batches(ready(mnist(tmp_path, batch_size=4), counts(**gan)), 3)
    parts = [batches(ready(mnist(tmp_path, batch_size=2), counts(2, rank, **gan)), 3) for rank in range(2)]
    assert torch.equal(torch.cat(parts, 3), joined)


def test_a_batch_larger_than_the_data_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    assert ready(mnist(tmp_path, batch_size=5), counts(critic_steps=2)).rounds_per_epoch == 1
    with pytest.raises(ValueError, match=r"takes 12 images \(data\.batch_size=6 .*has 10"):
        ready(mnist(tmp_path, batch_size=6), counts(critic_steps=2)).train_dataloader()


def test_the_global_stream_is_untouched(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    before = torch.get_rng_state()
    batches(ready(mnist(tmp_path, horizontal_flips=True)), 6)
    assert torch.equal(torch.get_rng_state(), before)


# -------------------------------------------------------------------------------------------------- image folders


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    shape = (height, width) if mode == "L" else (height, width, 3)
    return Image.fromarray(RANDOM.integers(0, 256, shape).astype(np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five cats and six dogs of different sizes, and a note."""
    root = tmp_path / "animals"
    for name, n in (("cats", 5), ("dogs", 6)):
        (root / name).mkdir(parents=True)
        for i in range(n):
            picture(20 + 3 * i, 24).save(root / name / f"{i}.{'jpg' if i % 2 else 'png'}")
    (root / "note.txt").write_text("not an image")
    return root


def image_folder(root: Path, batch_size: int = 2, size: int = 16, **options: Any) -> ImageFolder:
    options = {"workers": 1, "cache": str(root.parent / "cache"), **options}
    return ImageFolder(str(root), batch_size, size, **options)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    ("size", "scaled", "box"),
    [
        ((40, 30), (21, 16), (2, 0)),  # 40 * 16/30 = 21.3; 5 columns too many
        ((30, 40), (16, 21), (0, 2)),
        ((64, 64), (16, 16), (0, 0)),
        ((16, 20), (16, 20), (0, 2)),
        ((5, 8), (16, 26), (0, 5)),
    ],
)
def test_scaled_by_the_shorter_side_and_cropped_at_the_center(
    tmp_path: Path, mode: str, size: tuple[int, int], scaled: tuple[int, int], box: tuple[int, int]
) -> None:
    image = picture(*size, mode)
    image.save(tmp_path / "image.png")
    pixels = np.asarray(image if size == scaled else image.resize(scaled, Image.Resampling.LANCZOS))
    left, top = box
    expected = torch.from_numpy(pixels[top : top + 16, left : left + 16].copy()).view(16, 16, -1).permute(2, 0, 1)
    actual = read_image(tmp_path / "image.png", (len(expected), 16, 16))
    assert torch.equal(actual, expected)
    assert actual.is_contiguous()


def test_gray_and_color(tmp_path: Path) -> None:
    color, gray = picture(16, 16), picture(16, 16, "L")
    color.save(tmp_path / "color.png")
    gray.save(tmp_path / "gray.png")
    # ITU-R 601-2 luma, which Pillow rounds
    luma = np.asarray(color, dtype=float) @ [0.299, 0.587, 0.114]
    assert_close(read_image(tmp_path / "color.png", (1, 16, 16))[0].double(), torch.from_numpy(luma), rtol=0, atol=1)
    as_color = read_image(tmp_path / "gray.png", (3, 16, 16))
    assert torch.equal(as_color, torch.from_numpy(np.array(gray)).expand(3, 16, 16))


def test_a_folder_is_read_in_the_order_of_its_paths(folder: Path) -> None:
    data = ready(image_folder(folder))
    assert data.images.shape == (11, 3, 16, 16)
    assert data.images.dtype == torch.uint8
    files = sorted([*folder.rglob("*.jpg"), *folder.rglob("*.png")])
    expected = torch.stack([read_image(file, (3, 16, 16)) for file in files])
    assert torch.equal(data.images, expected)
    assert ready(image_folder(folder, channels=1)).images.shape == (11, 1, 16, 16)


@pytest.mark.parametrize(("classes", "count"), [(["cats"], 5), (["dogs"], 6), (["cats", "dogs"], 11)])
def test_folders_are_classes(folder: Path, classes: list[str], count: int) -> None:
    assert len(ready(image_folder(folder, classes=classes)).images) == count


def test_a_class_without_a_folder_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.classes names 'cows', but .* has the folders cats, dogs"):
        ready(image_folder(folder, classes=["cats", "cows"]))


def test_folders_with_numbers_for_names(tmp_path: Path) -> None:
    (tmp_path / "digits" / "7").mkdir(parents=True)
    picture(16, 16).save(tmp_path / "digits" / "7" / "a.png")
    assert len(ready(image_folder(tmp_path / "digits", classes=[7])).images) == 1


@pytest.mark.parametrize(("make", "state"), [(True, "has no image"), (False, "is not a folder")])
def test_a_folder_without_images_is_refused(tmp_path: Path, make: bool, state: str) -> None:
    root = tmp_path / "empty"
    if make:
        root.mkdir()
        (root / "note.txt").write_text("not an image")
    with pytest.raises(UsageError, match=rf"data\.root={root} {state}"):
        ready(image_folder(root))


def test_five_channels_and_three_sides_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.channels is 5"):
        image_folder(folder, channels=5)
    for size in ([16], [16, 16, 16], [16, 0], [16, 1.5]):
        with pytest.raises(UsageError, match=r"data\.size is \[16.*: give a whole number, or two as \[height, width\]"):
            image_folder(folder, size=size)  # type: ignore[arg-type]


def spoil(path: Path) -> None:
    """Make an image unreadable without a trace in its size and time."""
    stat = path.stat()
    path.write_bytes(bytes(stat.st_size))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_the_second_run_reads_the_cache(folder: Path) -> None:
    first = ready(image_folder(folder))
    spoil(folder / "cats" / "0.png")
    assert torch.equal(ready(image_folder(folder)).images, first.images)
    assert [path.suffix for path in (folder.parent / "cache").iterdir()] == [".pt"]


def test_the_cache_knows_when_an_image_has_changed(folder: Path) -> None:
    first = ready(image_folder(folder)).images
    path = folder / "cats" / "0.png"
    stat = path.stat()
    picture(25, 24).save(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size != stat.st_size
    second = ready(image_folder(folder)).images
    assert not torch.equal(second[0], first[0])
    assert torch.equal(second[1:], first[1:])
    # the same number of bytes at another time
    spoil(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    with pytest.raises(ValueError, match=f"{path} is not a readable image"):
        ready(image_folder(folder))


def test_the_cache_knows_when_an_image_has_come_or_gone(folder: Path) -> None:
    ready(image_folder(folder))
    (folder / "cats" / "0.png").unlink()
    assert len(ready(image_folder(folder)).images) == 10
    picture(20, 20).save(folder / "dogs" / "new.png")
    assert len(ready(image_folder(folder)).images) == 11


@pytest.mark.parametrize(
    "options", [{"size": 8}, {"channels": 1}, {"classes": ["dogs"]}, {"fit": "pad"}, {"depth": 16}, {"depth": "float"}]
)
def test_every_way_to_read_a_folder_has_its_own_cache(folder: Path, options: dict[str, Any]) -> None:
    first = ready(image_folder(folder)).images
    other = ready(image_folder(folder, **options)).images
    assert other.shape != first.shape or not torch.equal(other.float(), first.float())
    assert torch.equal(ready(image_folder(folder)).images, first)
    assert len(list((folder.parent / "cache").iterdir())) == 2


def test_an_unreadable_image_is_refused_by_name(folder: Path) -> None:
    path = folder / "dogs" / "3.jpg"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{path} is not a readable image"):
        ready(image_folder(folder))
    assert not list((folder.parent / "cache").iterdir())


def test_unreadable_images_are_skipped_with_a_count(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = ready(image_folder(folder)).images
    spoil(folder / "cats" / "1.jpg")
    (folder / "dogs" / "3.jpg").write_bytes(b"")
    capsys.readouterr()
    rest = ready(image_folder(folder, unreadable="skip")).images
    assert torch.equal(rest, whole[[0, *range(2, 8), 9, 10]])
    assert f"Skipped 2 unreadable images in {folder}, the first of them {folder / 'cats' / '1.jpg'}" in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_folder_of_nothing_but_unreadable_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="None of the 1 images"):
        ready(image_folder(tmp_path / "broken", unreadable="skip"))


def test_a_truncated_png_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    picture(64, 64).save(file, "PNG")
    (tmp_path / "half.png").write_bytes(file.getvalue()[: len(file.getvalue()) // 2])
    with pytest.raises(ValueError, match=r"half\.png is not a readable image"):
        read_image(tmp_path / "half.png", (3, 16, 16))


# --------------------------------------------------------------------------------------------------------- labels


def labeled(data: ImageData, n: int, position: int = 0) -> tuple[Tensor, Tensor]:
    """The images and classes of n rounds, one after another."""
    fetched = data.fetcher()(position, position + n)
    assert fetched.y is not None
    assert fetched.y.dtype == torch.int64
    assert fetched.y.shape == fetched.x.shape[:4]
    return fetched.x.flatten(0, 3), fetched.y.flatten()


def numbers(images: Tensor) -> list[int]:
    """The first pixel of each image, which in ``write_mnist`` is its number."""
    return [round((image[0, 0, 0].item() + 1) * 127.5) for image in images]


@pytest.mark.parametrize("horizontal_flips", [False, True])
def test_labels_are_those_of_the_file(tmp_path: Path, horizontal_flips: bool) -> None:
    """Every image of three epochs is told by its first and last pixel, mirrored or not."""
    images = write_mnist(tmp_path)
    images[:, 0, -1] = images[:, 0, 0]
    write_idx(tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte", images)
    data = ready(mnist(tmp_path, batch_size=1, horizontal_flips=horizontal_flips))
    x, y = labeled(data, 30)
    assert [LABELS[number] for number in numbers(x)] == y.tolist()
    assert sorted(y.tolist()) == sorted(3 * LABELS.tolist())


@pytest.mark.parametrize("classes", [[4, 1], ["1", 4], [1, 4]])
def test_chosen_classes_are_counted_from_zero_in_the_order_of_their_names(
    tmp_path: Path, classes: list[int | str]
) -> None:
    write_mnist(tmp_path)
    data = ready(mnist(tmp_path, batch_size=1, classes=classes))
    assert list(data.class_names) == ["1", "4"]
    x, y = labeled(data, 10)
    assert [data.class_names[label] for label in y.tolist()] == [str(LABELS[number]) for number in numbers(x)]
    floor, held_out = data.training_samples(4, 0), data.held_out_images()
    for samples in (floor, held_out._replace(x=from_bytes(held_out.x, (-1.0, 1.0)))):
        assert [{0: 1, 1: 4}[label] for label in samples.y.tolist()] == [LABELS[i] for i in numbers(samples.x)]


def test_classes_are_known_before_anything_is_read(tmp_path: Path) -> None:
    """Networks are built from what the data says without a trainer and without its files."""
    nowhere = tmp_path / "nowhere"
    assert mnist(nowhere).class_names == tuple("0123456789")
    assert (mnist(nowhere).classes, mnist(nowhere, classes=[7]).classes) == (10, 1)
    assert mnist(nowhere, classes=[7]).class_names == ["7"]
    assert mnist(nowhere).value_range == (-1.0, 1.0)
    assert mnist(nowhere, range="unit").value_range == (0.0, 1.0)
    assert CIFAR10(str(nowhere), 2, classes=["dog", "cat"]).class_names == ["cat", "dog"]
    with pytest.raises(ValueError, match=r"data\.classes names 'cow': CIFAR10 has airplane, automobile"):
        _ = CIFAR10(str(nowhere), 2, classes=["cow"]).classes


@pytest.mark.usefixtures("cifar")
def test_cifar_labels(tmp_path: Path) -> None:
    """Each of five files has the labels 0, 3, 5 and 3."""
    assert ready(CIFAR10(str(tmp_path), 2, download=False)).labels.tolist() == [0, 3, 5, 3] * 5
    chosen = ready(CIFAR10(str(tmp_path), 2, download=False, classes=["dog", "cat"]))
    assert chosen.labels.tolist() == [0, 1, 0] * 5


def test_labels_of_real_mnist(mnist_root: Path) -> None:
    """Rounds, floor and held-out images against the bytes of the files."""
    data = ready(mnist(mnist_root, batch_size=50))
    held_out = data.held_out_images()
    parts = {
        "train": [data.fetcher()(0, 4), data.training_samples(50, 0)],
        "t10k": [held_out._replace(x=from_bytes(held_out.x, (-1.0, 1.0)))],
    }
    for part, batches_ in parts.items():
        raw = mnist_root / "MNIST" / "raw"
        images = (raw / f"{part}-images-idx3-ubyte").read_bytes()[16:]
        labels = (raw / f"{part}-labels-idx1-ubyte").read_bytes()[8:]
        label_of = {images[784 * i : 784 * (i + 1)]: label for i, label in enumerate(labels)}
        for batch in batches_:
            pixels = to_bytes(batch.x.reshape(-1, 784), (-1.0, 1.0)).numpy()
            assert [label_of[image.tobytes()] for image in pixels] == batch.y.flatten().tolist()


def test_folders_are_labels(folder: Path) -> None:
    """The same from memory and through workers, mirrored or not."""
    on = counts(critic_steps=2)
    options: dict[str, Any] = {"horizontal_flips": True, "workers": 1}
    memory, files = (ready(image_folder(folder, memory_limit=gib, **options), on) for gib in (8.0, TINY))
    assert list(memory.class_names) == list(files.class_names) == ["cats", "dogs"]
    (x, y), (x_of_files, y_of_files) = (labeled(data, 4, 1) for data in (memory, files))
    assert torch.equal(x, x_of_files)
    assert torch.equal(y, y_of_files)
    # a mirrored image's pixels have the same sum
    cats = {image.sum().item() for image in memory.images[:5]}
    assert [to_bytes(image, (-1.0, 1.0)).sum().item() not in cats for image in x] == y.bool().tolist()
    assert memory.labels.tolist() == [0] * 5 + [1] * 6
    floor, floor_of_files = (data.training_samples(11, 3) for data in (memory, files))
    assert torch.equal(floor.x, floor_of_files.x)
    assert torch.equal(floor.y, floor_of_files.y)
    assert [to_bytes(image, (-1.0, 1.0)).sum().item() not in cats for image in floor.x] == floor.y.bool().tolist()


@pytest.mark.parametrize("memory_limit", [8.0, TINY])
def test_the_floor_has_images_of_given_classes(folder: Path, memory_limit: float) -> None:
    """Each once, also of a subset, and as many as there are."""
    data, all_of_them = (ready(image_folder(folder, memory_limit=memory_limit, subset=n)) for n in (9, None))
    labels = data.training_samples(9, 0).y
    for y in (labels, labels[:4].flip(0)):
        samples = data.training_samples(len(y), 3, y)
        assert torch.equal(samples.y, y)
        known = all_of_them.training_samples(11, 0)
        places = [(known.x == image).flatten(1).all(1).nonzero().item() for image in samples.x]
        assert len(set(places)) == len(y)
        assert torch.equal(known.y[places], y)
    with pytest.raises(UsageError, match=r"The floor takes 6 training samples of class 0, .* but there are 5: give"):
        all_of_them.training_samples(6, 0, torch.zeros(6, dtype=torch.long))


@pytest.mark.parametrize("memory_limit", [8.0, TINY])
def test_chosen_folders_are_counted_from_zero(folder: Path, memory_limit: float) -> None:
    (folder / "bees").mkdir()
    picture(16, 16).save(folder / "bees" / "a.png")
    data = ready(image_folder(folder, 1, classes=["dogs", "bees"], memory_limit=memory_limit, workers=0))
    assert list(data.class_names) == ["bees", "dogs"]
    _, y = labeled(data, 7)
    assert sorted(y.tolist()) == [0] + [1] * 6


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("memory_limit", [8.0, TINY])
def test_unreadable_images_are_passed_over_alike(
    folder: Path, memory_limit: float, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """In memory and through workers: each readable image once in an epoch, with its class; a line at the start."""
    spoil(folder / "cats" / "4.png")
    options: dict[str, Any] = {"unreadable": "skip", "workers": workers, "memory_limit": memory_limit}
    said = f"Skipped 1 unreadable images in {folder}, the first of them {folder / 'cats' / '4.png'}."
    data = ready(image_folder(folder, 1, **options))
    assert said in " ".join(capsys.readouterr().out.split())
    x, y = labeled(data, 10)
    assert sorted(y.tolist()) == [0] * 4 + [1] * 6
    of_dogs = {read_image(path, (3, 16, 16)).sum().item() for path in (folder / "dogs").iterdir()}
    assert [to_bytes(image, (-1.0, 1.0)).sum().item() in of_dogs for image in x] == y.bool().tolist()
    spoil(folder / "cats" / "3.jpg")  # which the cache does not notice
    assert len(ready(image_folder(folder, 1, **options)).images) == 10


@pytest.mark.parametrize("memory_limit", [8.0, TINY])
def test_a_folder_without_subfolders_has_no_classes(folder: Path, memory_limit: float) -> None:
    data = ready(image_folder(folder / "dogs", memory_limit=memory_limit, workers=0))
    assert (data.classes, list(data.class_names)) == (0, [])
    assert data.fetcher()(0, 2).y is None
    assert data.training_samples(2, 0).y is None
    with pytest.raises(ValueError, match=r"data\.classes names 'dogs', but .*dogs has no subfolders"):
        ready(image_folder(folder / "dogs", classes=["dogs"]))


def test_folders_are_listed_without_a_trainer(folder: Path, tmp_path: Path) -> None:
    data = image_folder(folder, classes=["dogs"])
    assert (list(data.class_names), data.classes) == (["dogs"], 1)
    absent = image_folder(tmp_path / "absent")
    assert absent.sample_shape == (3, 16, 16)
    with pytest.raises(UsageError, match=r"data\.root=.*absent is not a folder"):
        _ = absent.classes


def test_ranks_share_out_the_labels(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    gan = {"critic_steps": 2}
    joined = ready(mnist(tmp_path, batch_size=4), counts(**gan)).fetcher()(0, 3)
    parts = [ready(mnist(tmp_path, batch_size=2), counts(2, rank, **gan)).fetcher()(0, 3) for rank in range(2)]
    assert torch.equal(torch.cat([part.y for part in parts], 3), joined.y)
    assert torch.equal(torch.cat([part.x for part in parts], 3), joined.x)


# --------------------------------------------------------------------------------------------------------- subsets


def test_a_subset_is_the_same_for_every_seed_and_a_part_of_larger_ones(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    small, large = ([ready(mnist(tmp_path, subset=n, seed=seed)) for seed in (0, 1)] for n in (4, 7))
    for one, other in (small, large):
        assert torch.equal(one.images, other.images)
        assert one.fingerprint == other.fingerprint
    kept, more = (data[0].images[:, 0, 0, 0].tolist() for data in (small, large))
    assert len({*kept}) == 4
    assert {*kept} < {*more}
    assert kept != [*range(4)]
    assert small[0].labels.tolist() == [LABELS[number] for number in kept]
    assert small[0].rounds_per_epoch == 2
    small[0].setup()
    assert small[0].images[:, 0, 0, 0].tolist() == kept


def test_a_subset_is_of_the_chosen_classes(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    data = ready(mnist(tmp_path, subset=3, classes=[1, 4]))
    assert [data.class_names[label] for label in data.labels] == [str(LABELS[i]) for i in data.images[:, 0, 0, 0]]


def test_a_subset_of_a_folder_is_the_same_from_memory_and_through_workers(folder: Path) -> None:
    memory, files = (ready(image_folder(folder, subset=5, memory_limit=gib)) for gib in (8.0, TINY))
    assert memory.rounds_per_epoch == files.rounds_per_epoch == 2
    for found, expected in zip(labeled(files, 3), labeled(memory, 3), strict=True):
        assert torch.equal(found, expected)
    whole = ready(image_folder(folder, memory_limit=TINY))
    assert files.fingerprint.startswith("5 files")
    assert files.fingerprint != ready(image_folder(folder, subset=4, memory_limit=TINY)).fingerprint
    assert whole.fingerprint == ready(image_folder(folder, subset=11, memory_limit=TINY)).fingerprint


def test_a_subset_of_more_than_there_are_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    with pytest.raises(UsageError, match=r"data\.subset is 11, but there are 10 training images: give at most"):
        ready(mnist(tmp_path, subset=11))


# ----------------------------------------------------------------------------------------------- worker processes


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("rounds_per_batch", [1, 3])
def test_workers_give_the_batches_of_memory(folder: Path, workers: int, rounds_per_batch: int) -> None:
    """Three epochs of two rounds, some images mirrored."""
    options = {"horizontal_flips": True, "rounds_per_batch": rounds_per_batch, "workers": workers}
    on = counts(critic_steps=2)
    memory = ready(image_folder(folder, **options), on)
    files = ready(image_folder(folder, memory_limit=TINY, **options), on)
    assert isinstance(memory.images, Tensor)
    assert not isinstance(files.images, Tensor)
    n = 6 // rounds_per_batch
    assert torch.equal(batches(files, n), batches(memory, n))


def test_workers_go_on_from_any_position(folder: Path) -> None:
    data = ready(image_folder(folder, memory_limit=TINY, horizontal_flips=True))
    whole = batches(data, 8)
    for position in (1, 5, 6):
        assert torch.equal(batches(data, 8 - position, position), whole[position:])


def test_a_worker_loader_set_back_reads_again(folder: Path) -> None:
    loader = ready(image_folder(folder, memory_limit=TINY)).train_dataloader()
    first = [batch.x for batch in served(loader, len(loader))]
    again = [batch.x for batch in served(placed(loader, 0), len(loader))]
    assert torch.equal(torch.cat(first), torch.cat(again))


def test_workers_end_with_their_loader(folder: Path) -> None:
    """At once and without the garbage collector, which would have to kill them."""
    loader = ready(image_folder(folder, memory_limit=TINY)).train_dataloader()
    others = set(active_children())
    served(loader, 1)
    (worker,) = set(active_children()) - others
    gc.disable()
    try:
        del loader
        worker.join(timeout=60)
        assert worker.exitcode == 0
    finally:
        gc.enable()


def test_workers_serve_their_ranks(folder: Path) -> None:
    joined = batches(ready(image_folder(folder, 4, memory_limit=TINY, workers=0)), 3)
    parts = [
        batches(ready(image_folder(folder, 2, memory_limit=TINY, workers=0), counts(2, rank)), 3) for rank in range(2)
    ]
    assert torch.equal(torch.cat(parts, 3), joined)


def test_workers_leave_the_global_stream_alone(folder: Path) -> None:
    data = ready(image_folder(folder, memory_limit=TINY, horizontal_flips=True))
    before = torch.get_rng_state()
    batches(data, 3)
    assert torch.equal(torch.get_rng_state(), before)


def complaint(data: ImageData) -> str:
    """What the ValueError at the first round says; unlike pytest.raises, without the frames that keep workers alive."""
    try:
        batches(data, 1)
    except ValueError as error:
        traceback.clear_frames(error.__traceback__)
        return str(error)
    return "nothing"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_worker_names_the_image_it_cannot_read(folder: Path, workers: int) -> None:
    path = folder / "dogs" / "3.jpg"
    path.write_bytes(b"no image")
    data = ready(image_folder(folder, 11, memory_limit=TINY, workers=workers))
    assert f"{path} is not a readable image" in complaint(data)


def test_a_batch_larger_than_the_folder_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"takes 12 images .* has 11"):
        ready(image_folder(folder, 12, memory_limit=TINY)).train_dataloader()


# ------------------------------------------------------------------------------------------------ without a home


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)


@pytest.mark.usefixtures("homeless")
def test_what_needs_no_cache_needs_no_home(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    assert len(ready(mnist(tmp_path)).images) == 10


@pytest.mark.usefixtures("homeless")
def test_a_cache_is_refused_before_anything_is_read(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MNIST, "read", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(UsageError, match=r"^data\.cache=~/\.cache/gan_lightning cannot be written"):
        ready(mnist(tmp_path, validation_samples=10))
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("read"))
    for options in ({}, {"unreadable": "skip", "memory_limit": TINY}):
        with pytest.raises(UsageError, match=r"^data\.cache=~/\.cache/gan_lightning cannot be written"):
            ready(image_folder(folder, cache="~/.cache/gan_lightning", **options))
