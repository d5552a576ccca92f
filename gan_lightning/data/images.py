"""Image sets: one uint8 tensor in memory, on the device that trains, or a folder read by worker processes."""

import hashlib
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchmetrics import Metric

from gan_lightning.data.loader import Batches, RealData, RoundShape, stream_seed
from gan_lightning.files import written_aside
from gan_lightning.metrics.features import Features, inception_features, own_features
from gan_lightning.metrics.images import ImageMetrics

IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}


RANGES = {"signed": (-1.0, 1.0), "unit": (0.0, 1.0)}
FEWEST_HELD_OUT = 10  # density looks at five neighbours
VALIDATION_BATCH = 500


def scale(images: Tensor, value_range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """uint8 in [0, 255] to float32 in the range (low, high)."""
    low, high = value_range
    return images.float().mul_((high - low) / 255).add_(low)


class RoundOrder:
    """Which image stands where: a new permutation of all images for each epoch, cut into whole rounds."""

    def __init__(self, images: int, shape: RoundShape, seed: int, horizontal_flips: bool) -> None:
        self.images = images
        self.shape = shape
        self.seed = seed
        self.horizontal_flips = horizontal_flips
        self._epoch = -1
        self._permutation = torch.empty(0)

    @property
    def rounds_per_epoch(self) -> int:
        return self.images // self.shape.samples

    def indices(self, round_: int) -> Tensor:
        """This rank's images of one round, (critic_steps, accumulate, N)."""
        epoch, within = divmod(round_, self.rounds_per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(stream_seed("order", self.seed, epoch))
            self._epoch, self._permutation = epoch, torch.randperm(self.images, generator=generator)
        n = self.shape.samples
        return self.shape.shard(self._permutation[within * n : (within + 1) * n])[0]

    def flips(self, round_: int) -> Tensor:
        """Which of them are mirrored, of the same shape, each with probability 1/2."""
        generator = torch.Generator().manual_seed(stream_seed("flips", self.seed, round_))
        return self.shape.shard(torch.rand(self.shape.samples, generator=generator) < 0.5)[0]


class HeldOut(Batches):
    """uint8 images in order, in batches of floats in the range."""

    def __init__(self, images: Tensor, value_range: tuple[float, float]) -> None:
        super().__init__(images, VALIDATION_BATCH)
        self.value_range = value_range

    def __iter__(self) -> Iterator[Tensor]:
        return (scale(batch, self.value_range) for batch in self.batches)


class ImageData(RealData):
    """Base of the image data modules, whose ``read`` gives images and classes; batches are float in ``value_range``.

    A tensor of images goes to the training device, where a batch is one indexing operation; a data set that reads
    them one by one goes through ``workers`` processes. Validation compares generated images with
    ``validation_samples`` held-out ones by the features of a classifier of this data, or of Inception.
    """

    images: Tensor | Dataset[Tensor]  # uint8, (images, *sample_shape)
    class_names: Sequence[str]

    def __init__(
        self,
        root: str,
        batch_size: int,
        classes: Sequence[int | str] | None = None,
        horizontal_flips: bool = False,
        range: Literal["signed", "unit"] = "signed",
        seed: int = 0,
        rounds_per_batch: int = 1,
        workers: int = 2,
        validation_samples: int = 0,
        features: Literal["own", "inception"] = "own",
        inception_weights: str | None = None,
        cache: str = "~/.cache/gan_lightning",
    ) -> None:
        super().__init__(batch_size, seed, rounds_per_batch)
        if range not in RANGES:
            raise ValueError(f"data.range is {range!r}: choose signed, for [-1, 1], or unit, for [0, 1].")
        if 0 < validation_samples < FEWEST_HELD_OUT:
            raise ValueError(
                f"data.validation_samples is {validation_samples}: give at least {FEWEST_HELD_OUT}, or 0 for no image "
                "metrics while training."
            )
        is_list = isinstance(classes, Sequence) and not isinstance(classes, str)
        if classes is not None and not (is_list and classes and all(type(name) in (int, str) for name in classes)):
            raise ValueError(
                f"data.classes is {classes!r}: give a list of names or numbers, one or more, or null for all."
            )
        self.value_range = RANGES[range]
        self.root = Path(root).expanduser()
        self.classes = classes
        self.horizontal_flips = horizontal_flips
        self.workers = workers
        self.validation_samples = validation_samples
        self.monitor = ("val/fid", "min") if validation_samples else None
        self.features = features
        self.inception_weights = inception_weights
        self.cache = Path(cache).expanduser()

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """All images of the training or of the held-out set, uint8 (n, *sample_shape), and their classes, (n,)."""
        raise TypeError(f"{type(self).__name__} must define read")

    def setup(self, stage: str | None = None) -> None:
        """Read the images, and what validation needs: held-out images and the network that gives features."""
        if not hasattr(self, "images"):
            self.images = self._of_chosen_classes(*self.read(train=True))
        if self.validation_samples and not hasattr(self, "_metric"):
            self._held_out = self._validation_images()
            features = self._feature_network()
            self.features_name, self.features_accuracy = features.name, features.accuracy
            self._metric = ImageMetrics(features, self.value_range, self._chosen_classes())
            # Lightning validates only where this method is defined, and an empty loader would make it warn
            self.val_dataloader = self._validation_batches  # type: ignore[method-assign]

    def held_out_images(self) -> Tensor:
        """The held-out images of the chosen classes, uint8 (n, *sample_shape), in an order that all runs share."""
        images = self._of_chosen_classes(*self.read(train=False))
        return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(stream_seed("held-out")))]

    def _validation_images(self) -> Tensor:
        images = self.held_out_images()
        if len(images) < self.validation_samples:
            raise ValueError(
                f"data.validation_samples is {self.validation_samples}, but there are {len(images)} held-out images: "
                "give at most that number."
            )
        return images[: self.validation_samples]

    def _feature_network(self) -> Features:
        if self.features == "inception":
            return inception_features(self.inception_weights)
        assert self.trainer is not None
        device = self.trainer.strategy.root_device
        train, held_out = self.read(train=True), self.read(train=False)
        return own_features(type(self).__name__.lower(), train, held_out, len(self.class_names), self.cache, device)

    def _of_chosen_classes(self, images: Tensor, labels: Tensor) -> Tensor:
        chosen = self._chosen_classes()
        return images if chosen is None else images[torch.isin(labels, torch.tensor(chosen))]

    def _chosen_classes(self) -> list[int] | None:
        return None if self.classes is None else sorted({self._class_index(name) for name in self.classes})

    def _class_index(self, name: int | str) -> int:
        raise TypeError(f"{type(self).__name__} must define _class_index")

    def metrics(self) -> dict[str, Metric]:
        return {"images": self._metric} if self.validation_samples else {}

    def _validation_batches(self) -> HeldOut:
        shape = self.round_shape
        return HeldOut(self._held_out[shape.rank :: shape.world_size], self.value_range)

    def training_samples(self, n: int, seed: int) -> Tensor:
        total = len(self.images)  # type: ignore[arg-type]
        if n > total:
            raise ValueError(f"The floor takes {n} training images, but there are {total}: give at most that number.")
        stream = torch.Generator().manual_seed(stream_seed("floor", seed))
        index = torch.randperm(total, generator=stream)[:n]
        if isinstance(self.images, Tensor):
            return scale(self.images[index], self.value_range)
        return scale(torch.stack([self.images[i] for i in index.tolist()]), self.value_range)

    def check_size(self) -> None:
        """Raise a ValueError where one round needs more images than there are."""
        n, needed = len(self.images), self.round_shape.samples  # type: ignore[arg-type]
        if n < needed:
            raise ValueError(
                f"One training round takes {needed} images (data.batch_size={self.batch_size} for each update and "
                f"device), but {self.root} has {n}: choose a smaller data.batch_size."
            )

    @property
    def rounds_per_epoch(self) -> int:
        return self._order().rounds_per_epoch

    def _order(self) -> RoundOrder:
        return RoundOrder(len(self.images), self.round_shape, self.seed, self.horizontal_flips)  # type: ignore[arg-type]

    def fetcher(self) -> Callable[[int, int], Tensor]:
        self.check_size()
        order = self._order()
        if isinstance(self.images, Tensor):
            assert self.trainer is not None
            return MemoryFetcher(self.images.to(self.trainer.strategy.root_device), order, self.value_range)
        return WorkerFetcher(self.images, order, self.value_range, self.workers)


class MemoryFetcher:
    """Rounds by indexing one tensor, on whatever device it is."""

    def __init__(self, images: Tensor, order: RoundOrder, value_range: tuple[float, float]) -> None:
        self.images = images
        self.order = order
        self.value_range = value_range

    def __call__(self, start: int, stop: int) -> Tensor:
        rounds = range(start, stop)
        index = self._to_device(torch.stack([self.order.indices(r) for r in rounds]))
        images = scale(self.images.index_select(0, index.flatten()), self.value_range)
        if self.order.horizontal_flips:
            flips = self._to_device(torch.stack([self.order.flips(r) for r in rounds]))
            images = torch.where(flips.flatten()[:, None, None, None], images.flip(-1), images)
        return images.unflatten(0, index.shape)

    def _to_device(self, cpu: Tensor) -> Tensor:
        """A copy that a GPU's queue does not wait for."""
        return cpu.pin_memory().to(self.images.device, non_blocking=True) if self.images.is_cuda else cpu


class WorkerFetcher:
    """Rounds read ahead by worker processes, one round a work item."""

    def __init__(
        self, images: Dataset[Tensor], order: RoundOrder, value_range: tuple[float, float], workers: int
    ) -> None:
        self.images = images
        self.order = order
        self.value_range = value_range
        self.workers = workers
        self._next = -1
        self._iterator: Iterator[Tensor] = iter(())

    def __call__(self, start: int, stop: int) -> Tensor:
        if start != self._next:
            loader = DataLoader(
                self.images,
                batch_sampler=self._rounds_from(self.order, start),
                num_workers=self.workers,
                generator=torch.Generator(),  # else it draws from the global random state
            )
            self._iterator = iter(loader)
        self._next = stop
        return torch.stack([self._read(r) for r in range(start, stop)])

    @staticmethod
    def _rounds_from(order: RoundOrder, start: int) -> Iterator[list[int]]:
        # without self: a cycle through the iterator would leave its workers to the garbage collector, which takes 5 s
        round_ = start
        while True:
            yield order.indices(round_).flatten().tolist()
            round_ += 1

    def _read(self, round_: int) -> Tensor:
        images = scale(next(self._iterator), self.value_range)
        if self.order.horizontal_flips:
            flips = self.order.flips(round_).flatten()
            images[flips] = images[flips].flip(-1)
        shape = self.order.shape
        return images.unflatten(0, (shape.critic_steps, shape.accumulate_grad_batches, shape.batch_size))


class _Torchvision(ImageData):
    """A set that torchvision knows and downloads into ``root``."""

    name: str
    files: str

    def __init__(self, *args: Any, download: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.download = download

    def prepare_data(self) -> None:
        """Read once on one process before all of them do, since reading may download."""
        if not hasattr(self, "images"):
            self.read(train=True)

    def _class_index(self, name: int | str) -> int:
        names = list(self.class_names)
        if isinstance(name, int) and 0 <= name < len(names):
            return name
        if name in names:
            return names.index(str(name))
        raise ValueError(f"data.classes names {name!r}: {self.name} has {', '.join(names)} (or 0 to {len(names) - 1}).")

    def _open(self, train: bool) -> Any:
        """torchvision's data set, downloaded where it may be.

        Raises:
            FileNotFoundError: it is not there and cannot be had.
        """
        import torchvision

        dataset = getattr(torchvision.datasets, self.name)
        try:
            return dataset(self.root, train=train, download=self.download)
        except (RuntimeError, OSError) as error:
            reason = str(error).strip().partition("\n")[0].rstrip(":") or type(error).__name__
            raise FileNotFoundError(
                f"{self.name} is not in data.root={self.root} and was not downloaded ({reason}): give the folder that "
                f"holds {self.files}, or run once with data.download=true and a connection."
            ) from error


class MNIST(_Torchvision):
    """60,000 handwritten digits, (1, 28, 28) (LeCun et al. 1998)."""

    name = "MNIST"
    sample_shape = (1, 28, 28)
    class_names = tuple("0123456789")
    files = "MNIST/raw with its idx files"

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        for kind in ("images-idx3", "labels-idx1"):
            file = self.root / self.name / "raw" / f"{'train' if train else 't10k'}-{kind}-ubyte"
            if file.exists():
                check_idx(file)
        dataset = self._open(train)
        return dataset.data[:, None], dataset.targets


class FashionMNIST(MNIST):
    """60,000 pieces of clothing, (1, 28, 28) (Xiao et al. 2017)."""

    name = "FashionMNIST"
    class_names = (
        *("t-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    )
    files = "FashionMNIST/raw with its idx files"


class CIFAR10(_Torchvision):
    """50,000 photographs of ten classes, (3, 32, 32) (Krizhevsky 2009)."""

    name = "CIFAR10"
    sample_shape = (3, 32, 32)
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    files = "cifar-10-batches-py"

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        dataset = self._open(train)
        return torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(dataset.targets)


def check_idx(path: Path) -> None:
    """Compare an idx file's length with its header's, since torchvision's error names no file.

    Raises:
        ValueError: the file is cut short or is no idx file of bytes.
    """
    with path.open("rb") as file:
        zero, kind, dimensions = struct.unpack(">HBB", file.read(4).ljust(4, b"\xff"))
        sizes = file.read(4 * dimensions) if (zero, kind) == (0, 8) else b""
        whole = sizes and len(sizes) == 4 * dimensions
    expected = 4 + len(sizes) + math.prod(struct.unpack(f">{dimensions}I", sizes)) if whole else -1
    actual = path.stat().st_size
    if expected != actual:
        raise ValueError(
            f"{path} has {actual} bytes where its header announces {expected if whole else 'no idx data'}: "
            "the file is broken, so delete it and get it again."
        )


class ImageFolder(ImageData):
    """All images in a folder and its subfolders, scaled by the shorter side and cropped at the centre to ``size``.

    The folder that directly holds an image is its class. The scaled images are cached, so that only the first run reads
    them all; a folder that would take more than ``memory_limit`` GiB is read by worker processes at every run.
    ``held_out`` is another folder, with folders of the same names.
    """

    def __init__(
        self,
        root: str,
        batch_size: int,
        size: int,
        channels: int = 3,
        unreadable: Literal["refuse", "skip"] = "refuse",
        memory_limit: float = 8.0,
        held_out: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(root, batch_size, **options)
        if channels not in (1, 3):
            raise ValueError(f"data.channels is {channels}: choose 1 (grey) or 3 (colour).")
        self.sample_shape = (channels, size, size)
        self.unreadable = unreadable
        self.memory_limit = memory_limit
        self.held_out = None if held_out is None else Path(held_out).expanduser()
        if self.held_out is not None:
            train, test = self.root.resolve(), self.held_out.resolve()
            if train.is_relative_to(test) or test.is_relative_to(train):
                raise ValueError(
                    f"data.held_out={held_out} and data.root={root} have images in common, which would be trained on: "
                    "give two folders of which none is in the other."
                )

    def setup(self, stage: str | None = None) -> None:
        if not hasattr(self, "images"):
            files = self._files(self.root)
            self.class_names = sorted({file.parent.name for file in files})
            wanted = self.class_names
            if self.classes is not None:
                wanted = [self.class_names[self._class_index(name)] for name in self.classes]
            files = [file for file in files if file.parent.name in wanted]
            is_small = self._fits(files)
            self.images = self._load(files)[0] if is_small else _Files(files, self.sample_shape, self.unreadable)
        super().setup(stage)

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """All images of ``root`` or ``held_out``, uint8 (n, *sample_shape), and their classes, (n,).

        Inception needs no classes: for it, -1 is a folder that ``root`` does not have.
        """
        folder = self.root if train else self.held_out
        if folder is None:
            raise ValueError(
                "data.held_out is not set: image metrics compare with images that are not trained on, so give a folder "
                "of such."
            )
        files = self._files(folder)
        if not self._fits(files):
            raise ValueError(
                f"{folder} takes more than data.memory_limit={self.memory_limit} GiB, and image metrics need it in "
                "memory: give a higher limit" + (", or data.features=inception." if train else ".")
            )
        names = list(self.class_names)
        unknown = sorted({file.parent.name for file in files} - set(names))
        if unknown and self.features == "own":
            raise ValueError(
                f"data.held_out has folders, such as {unknown[0]!r}, that {self.root} does not have: give the same "
                "folders, or data.features=inception."
            )
        images, readable = self._load(files)
        labels = [names.index(name) if (name := files[i].parent.name) in names else -1 for i in readable.tolist()]
        return images, torch.tensor(labels)

    def _fits(self, files: list[Path]) -> bool:
        return len(files) * math.prod(self.sample_shape) <= self.memory_limit * 2**30

    def _class_index(self, name: int | str) -> int:
        names = list(self.class_names)
        if str(name) not in names:
            raise ValueError(f"data.classes names {name!r}: {self.root} has the folders {', '.join(names)}.")
        return names.index(str(name))

    def _files(self, folder: Path) -> list[Path]:
        """The images in a folder, in order of their paths.

        Raises:
            FileNotFoundError: there is no such folder or no image in it.
        """
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_ENDINGS)
        if not files:
            option = "root" if folder == self.root else "held_out"
            state = "has no image" if folder.is_dir() else "is no folder"
            raise FileNotFoundError(
                f"data.{option}={folder} {state}: give a folder with {' '.join(sorted(IMAGE_ENDINGS))}."
            )
        return files

    def _load(self, files: list[Path]) -> tuple[Tensor, Tensor]:
        """The readable images, from the cache or from their files, and their indices among the files."""
        cached = self._cache_path(files)
        if cached.exists():
            return torch.load(cached, weights_only=True)
        loaded = self._decode(files)
        with written_aside(cached) as aside, aside.open("wb") as file:
            torch.save(loaded, file)
        return loaded

    def _cache_path(self, files: list[Path]) -> Path:
        key = hashlib.blake2b(digest_size=16)
        key.update(repr((self.sample_shape, self.unreadable, "images and indices")).encode())
        for path in files:
            stat = path.stat()
            key.update(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return self.cache / f"{key.hexdigest()}.pt"

    def _decode(self, files: list[Path]) -> tuple[Tensor, Tensor]:
        """The readable images, uint8 (images, *sample_shape), and their indices, with a progress bar."""
        from rich.progress import track

        folder = self.root if files[0].is_relative_to(self.root) else self.held_out
        images, readable, skipped = [], [], []
        for i, path in enumerate(track(files, description=f"Reading {folder}")):
            try:
                images.append(read_image(path, self.sample_shape))
                readable.append(i)
            except ValueError:
                if self.unreadable == "refuse":
                    raise
                skipped.append(path)
        if skipped:
            print(f"Skipped {len(skipped)} unreadable images in {folder}, the first of them {skipped[0]}.")
        if not images:
            raise ValueError(f"None of the {len(files)} images in {folder} can be read.")
        return torch.stack(images), torch.tensor(readable)


class _Files(Dataset[Tensor]):
    """Images read when they are asked for; the next readable one stands in for an unreadable one that is skipped."""

    def __init__(self, files: list[Path], sample_shape: tuple[int, ...], unreadable: str) -> None:
        self.files = files
        self.sample_shape = sample_shape
        self.unreadable = unreadable

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        for i in range(len(self)):
            try:
                return read_image(self.files[(index + i) % len(self)], self.sample_shape)
            except ValueError:
                if self.unreadable == "refuse" or i == len(self) - 1:
                    raise
        raise IndexError(index)


def read_image(path: Path, sample_shape: tuple[int, ...]) -> Tensor:
    """One image file as uint8 (channels, size, size), scaled by its shorter side and cropped at the centre.

    Raises:
        ValueError: the file is not a readable image.
    """
    channels, size, _ = sample_shape
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I;16"):  # 16 bits a pixel, which convert would cut off at 255
                image = image.point(lambda value: value / 257).convert("L")
            image = image.convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} is not a readable image ({error}): remove it, or pass over such files with data.unreadable=skip."
        ) from error
    width, height = (max(size, round(side * size / min(image.size))) for side in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    left, top = (width - size) // 2, (height - size) // 2
    image = image.crop((left, top, left + size, top + size))
    data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return data.view(size, size, channels).permute(2, 0, 1).contiguous()
