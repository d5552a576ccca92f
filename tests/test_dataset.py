"""Any map-style dataset of torch's kind: read once into memory, and then as arrays are."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import counts, load_script, trained
from PIL import Image
from test_arrays import SMALL, run_script
from torch.utils.data import Dataset, IterableDataset
from torchvision.datasets import FakeData
from torchvision.transforms import ToTensor

from gan_lightning.checkpoints import load
from gan_lightning.data.dataset import DatasetData, _as_array
from gan_lightning.errors import UsageError
from gan_lightning.resumption import resume
from gan_lightning.training import train

FAKE = partial(FakeData, size=40, image_size=(3, 8, 8), num_classes=3)


class Items(Dataset[Any]):
    """What it is given."""

    def __init__(self, items: list[Any], classes: list[str] | None = None) -> None:
        self.items = items
        if classes:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class Noisy(Dataset[Any]):
    """Items that a random transform makes."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Any:
        return index + torch.rand(3)


def made(dataset: Any, **options: Any) -> DatasetData:
    data = DatasetData(dataset, 8, **options)
    data.trainer = counts(critic_steps=1)
    data.setup()
    return data


def everything(data: DatasetData) -> torch.Tensor:
    return torch.cat([data._training.x, data._held_out.x])  # type: ignore[union-attr]


@pytest.mark.parametrize("as_tensors", [False, True])
def test_torchvisions_images_are_read_as_they_are(as_tensors: bool, capsys: pytest.CaptureFixture[str]) -> None:
    data = made(partial(FAKE, transform=ToTensor()) if as_tensors else FAKE)
    assert "Reading the 40 items of FakeData into memory" in capsys.readouterr().out
    assert data.sample_shape == (3, 8, 8)
    assert data.class_names == ("0", "1", "2")
    images = {np.moveaxis(np.asarray(image), -1, 0).tobytes(): label for image, label in FAKE()}
    x, y = data._training.x, data._training.y
    assert x.dtype == (torch.float32 if as_tensors else torch.uint8)
    back = data.in_units(data.training_samples(36, seed=0).x)
    as_bytes = (back * 255).round().byte() if as_tensors else back
    assert {image.numpy().tobytes() for image in as_bytes} <= set(images)
    assert y is not None
    if not as_tensors:
        assert [images[image.numpy().tobytes()] for image in x] == y.tolist()


def test_a_random_transform_gives_an_item_always_the_same() -> None:
    before = torch.get_rng_state()
    first, second = (made(Noisy) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(everything(first), everything(second))
    assert len(everything(first).unique()) == 60


@pytest.mark.parametrize(
    ("items", "classes", "shape", "names"),
    [
        ([torch.zeros(3), torch.ones(3)], None, (3,), ()),
        ([(np.zeros(2, np.int16), 0), (np.ones(2, np.int16), torch.tensor(1))], ["cat", "dog"], (2,), ("cat", "dog")),
        ([Image.new("L", (5, 4)), Image.new("L", (5, 4))], None, (1, 4, 5), ()),
        ([1.0, 2.0], None, (1,), ()),
        ([(torch.zeros(3),), (torch.ones(3),)], None, (3,), ()),
        ([(torch.zeros(3), 5), (torch.ones(3), 3)], None, (3,), ("3", "5")),
        ([(torch.zeros(3), 0), (torch.ones(3), 2)], ["cat", "dog", "owl"], (3,), ("cat", "owl")),
    ],
)
def test_items_of_every_kind(
    items: list[Any], classes: list[str] | None, shape: tuple[int, ...], names: tuple[str, ...]
) -> None:
    data = made(lambda: Items(items, classes), held_out_share=0.0)
    assert (data.sample_shape, data.class_names) == (shape, names)


def test_pictures_keep_their_depth_and_lose_what_is_transparent() -> None:
    values = np.arange(16, dtype=np.uint16).reshape(4, 4) * 4000
    for deep in (Image.fromarray(values), Image.fromarray(values.astype(np.int32))):
        assert np.array_equal(_as_array(deep), values)
    hidden = Image.fromarray(np.dstack([np.full((4, 4), 7, np.uint8), np.zeros((4, 4), np.uint8)]), "LA")
    assert (_as_array(hidden) == 255).all()
    assert _as_array(hidden).shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("items", "options", "sentence"),
    [
        ([], {}, "Items has no items"),
        ([{"x": 1}], {}, "Item 0 of Items is a dict: give x or"),
        ([(torch.zeros(3), "cat")], {}, r"Item 0 of Items is \(Tensor, str\), with y = 'cat': give x or"),
        ([torch.zeros(3), torch.zeros(4)], {}, r"shapes or types, float32 \(3,\) and float32 \(4,\) \(item 1\): give"),
        ([torch.ones(2, dtype=int), torch.rand(2)], {}, r"types, int64 \(2,\) and float32 \(2,\) \(item 1\): give"),
        ([(torch.zeros(3), 0), (torch.ones(3), None)], {}, r"with a class and items without \(item 1\): give all"),
        ([torch.zeros(3), torch.ones(3), (torch.ones(3), 1)], {}, r"with a class and items without \(item 2\): give"),
        ([torch.zeros(3)], {"memory_limit": 1e-9}, r"takes 0.0 GiB, more than data.memory_limit=1e-09"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(items: list[Any], options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        made(partial(Items, items), **options)


def test_a_stream_is_refused() -> None:
    class Stream(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(9))

    with pytest.raises(UsageError, match=r"Stream has no length: give a map-style dataset, with __len__"):
        made(Stream)


def test_an_absent_set_is_one_sentence_and_ones_own_error_stays(tmp_path: Path) -> None:
    from torchvision.datasets import MNIST

    with pytest.raises(UsageError, match=r"MNIST cannot be created: Dataset not found"):
        made(partial(MNIST, str(tmp_path)))

    def broken() -> Any:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        made(broken)


def test_a_dataset_is_trained_on_resumed_and_sampled_where_it_is_trusted(tmp_path: Path) -> None:
    options = ("data=dataset", "data.dataset._target_=torchvision.datasets.FakeData", "+data.dataset.size=40")
    options += ("+data.dataset.image_size=[3,8,8]", "model=mlp", "model.generator.widths=[8]", *SMALL)
    straight = trained(tmp_path / "straight", *options)
    broken = trained(tmp_path / "broken", *options, "trainer.max_steps=6")
    with pytest.raises(UsageError, match=r"give trust=\[torchvision\]"):
        resume(broken)
    train(resume(broken, ["trainer.max_steps=12"], trust=["torchvision"]), broken)
    a, b = (load(run, trust=["torchvision"]) for run in (straight, broken))
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name
    out = tmp_path / "x.npy"
    run_script(load_script("sample"), f"checkpoint={straight}", f"out={out}", "n=5", "trust=[torchvision]")
    assert (np.load(out).shape, np.load(out).dtype) == ((5, 3, 8, 8), np.uint8)
