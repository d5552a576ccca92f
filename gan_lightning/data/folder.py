"""A folder of images, whose subfolders are classes: in memory, or read by worker processes."""

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from gan_lightning.batch import Batch
from gan_lightning.cache import cache_folder, cached, say
from gan_lightning.data.decode import MODES, Fit, named, read_image
from gan_lightning.data.fetch import read_ahead
from gan_lightning.data.images import ImageData
from gan_lightning.data.listing import IMAGE_ENDINGS, list_images
from gan_lightning.errors import UsageError
from gan_lightning.pixels import DEPTHS, Depth

INCEPTION = ", or data.features=inception"  # end of an advice
VERSION, VERSION_OF_DEEP_ALPHA = 2, 3  # of the decoding; part of the cache key


def check_apart(root: Path, held_out: Path | None) -> None:
    """Raise a UsageError if held-out images are also training images."""
    if held_out is None:
        return
    train, test = root.resolve(), held_out.resolve()
    if train.is_relative_to(test) or test.is_relative_to(train):
        raise UsageError(
            f"data.held_out={held_out} and data.root={root} have images in common, which would be trained on: "
            "give two separate folders, neither inside the other."
        )


def sides(size: int | Sequence[int]) -> tuple[int, int]:
    """Return height and width for a size, which is one number for squares or both.

    Raises:
        UsageError: it is neither one number nor two.
    """
    pair = [size, size] if isinstance(size, int) else list(size)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise UsageError(f"data.size is {size}: give a whole number, or two as [height, width].")
    height, width = pair
    return height, width


def read_in_range(
    path: Path, sample_shape: tuple[int, ...], fit: Fit, depth: Depth, value_range: tuple[float, float]
) -> Tensor:
    """Read one image at this depth, (channels, height, width): integers as in the file, or floats in the range."""
    image = read_image(path, sample_shape, fit, depth)
    low, high = value_range
    return image.mul_(high - low).add_(low) if image.is_floating_point() else image


class ImageFolder(ImageData):
    """All images in a folder and its subfolders, fitted to ``size``: a number, or height and width.

    ``fit`` is ``crop``, which scales images to cover the size and crops the center, ``pad``, which fits them on black,
    or ``stretch``. ``channels`` is 1 (gray), 2 (gray and alpha), 3 (color) or 4 (color and alpha). ``depth`` is 8 or 16
    bits, or ``float`` for pixels in [0, 1].

    The folder that directly contains an image is its class; if all images are directly in ``root``, there are no
    classes. The scaled images are cached, so only the first run decodes them. A folder that needs more than
    ``memory_limit`` GiB is read by worker processes in every run. ``held_out`` is another folder with subfolders of the
    same names.
    """

    def __init__(
        self,
        root: str,
        batch_size: int,
        size: int | Sequence[int],
        channels: int = 3,
        unreadable: Literal["refuse", "skip"] = "refuse",
        memory_limit: float = 8.0,
        held_out: str | None = None,
        fit: Fit = "crop",
        depth: Depth = 8,
        **options: Any,
    ) -> None:
        super().__init__(root, batch_size, **options)
        if channels not in MODES:
            raise UsageError(f"data.channels is {channels}: choose 1 (grayscale) or 3 (color), or 2 or 4 with alpha.")
        self.sample_shape = (channels, *sides(size))
        self.fit, self.depth = fit, depth
        form: dict[str, Any] = {
            "sample_shape": self.sample_shape,
            "fit": fit,
            "depth": depth,
            "value_range": self.value_range,
        }
        self._read: Callable[[Path], Tensor] = partial(read_in_range, **form)  # workers do not get this object
        self.unreadable = unreadable
        self.memory_limit = memory_limit
        self.held_out = None if held_out is None else Path(held_out).expanduser()
        check_apart(self.root, self.held_out)

    def setup(self, stage: str | None = None) -> None:
        if not hasattr(self, "images"):
            files = self._training_files
            if self.chosen is not None:
                files = [file for file in files if _class_of(file) in self.class_names]
            if self._fits(files):
                self.images, readable = self._load(files)
                labels = self._labels(files)[readable]
            else:
                files = [files[i] for i in self._readable(files)]
                labels = self._labels(files)
                self.images = _Files(files, labels, self._read)
            self.labels = labels if self.classes else None
        super().setup(stage)

    @cached_property
    def fingerprint(self) -> str:  # type: ignore[override]
        """As in the base class; for a folder too large for memory, a digest of the files' names, sizes and times."""
        if isinstance(self.images, Tensor):
            return super().fingerprint
        images: Any = self.images
        is_cut = isinstance(self.images, Subset)
        files = [images.dataset.files[i] for i in images.indices] if is_cut else images.files
        digest = hashlib.sha256()
        for path in files:
            stat = path.stat()
            digest.update(os.fsencode(path.relative_to(self.root)) + f"\0{stat.st_size} {stat.st_mtime_ns}\n".encode())
        return f"{len(files)} files, digest {digest.hexdigest()[:16]}"

    @cached_property
    def _training_files(self) -> list[Path]:
        return self._files(self.root)

    @cached_property
    def all_class_names(self) -> Sequence[str]:
        parents = {file.parent for file in self._training_files}
        return () if parents == {self.root} else sorted({named(parent.name) for parent in parents})

    def held_out_samples(self, n: int) -> Batch:
        if self.held_out is None:
            return self.training_samples(min(n, len(self.images)), seed=0)  # type: ignore[arg-type]
        return super().held_out_samples(n)

    def names(self) -> list[str]:
        """The paths of the files relative to ``root``, in the order of ``read``."""
        return [file.relative_to(self.root).as_posix() for file in self._training_files]

    def _labels(self, files: list[Path]) -> Tensor:
        """The index of each file's folder in ``class_names``, -1 for none."""
        return _indices(self.class_names, files)

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return all images of ``root`` or ``held_out``, (n, *sample_shape) at their depth, and their classes, (n,).

        Inception needs no classes: with it, a folder missing in ``root`` has class -1.
        """
        folder = self.root if train else self.held_out
        if folder is None:
            raise UsageError(
                "data.held_out is not set: image metrics compare with images that are not trained on, so give a folder "
                "of held-out images."
            )
        files = self._training_files if train else self._files(folder)
        if not self._fits(files):
            raise UsageError(
                f"{folder} takes more than data.memory_limit={self.memory_limit} GiB, but must be held in memory: give "
                f"a higher limit or a smaller data.size{INCEPTION if train else ''}."
            )
        names = self.all_class_names
        unknown = sorted(set(map(_class_of, files)) - set(names))
        if names and unknown and self.features == "own":
            raise UsageError(
                f"data.held_out has folders, such as {unknown[0]!r}, that {self.root} does not have: give the same "
                "folders, or data.features=inception."
            )
        images, readable = self._load(files)
        return images, _indices(names, files)[readable]

    def _fits(self, files: list[Path]) -> bool:
        pixels = len(files) * math.prod(self.sample_shape)
        return pixels * DEPTHS[self.depth].itemsize <= self.memory_limit * 2**30

    def _class_index(self, name: int | str) -> int:
        names = list(self.all_class_names)
        if not names:
            raise UsageError(f"data.classes names {name!r}, but {self.root} has no subfolders to serve as classes.")
        if str(name) not in names:
            raise UsageError(f"data.classes names {name!r}, but {self.root} has the folders {', '.join(names)}.")
        return names.index(str(name))

    def _files(self, folder: Path) -> list[Path]:
        """List the images in a folder, sorted by path.

        Raises:
            UsageError: the folder does not exist or has no image.
        """
        option = "root" if folder == self.root else "held_out"
        advice = f"give a folder with {' '.join(sorted(IMAGE_ENDINGS))}."
        if not folder.is_dir():
            raise UsageError(f"data.{option}={named(folder)} is not a folder: {advice}")
        listing = list_images(folder)
        say(listing.passed_over(folder))
        if not listing.files:
            raise UsageError(f"data.{option}={named(folder)} has no image: {advice}")
        return listing.files

    def _load(self, files: list[Path]) -> tuple[Tensor, Tensor]:
        """Load the readable images, from the cache or their files, and their indices in ``files``."""
        return cached(self._cache_path(files, "images and indices"), lambda: self._decode(files))

    def _readable(self, files: list[Path]) -> list[int]:
        """The indices of the files that workers will read: all, unless unreadable files are skipped."""
        if self.unreadable == "refuse":
            return list(range(len(files)))
        images = _Files(files, torch.zeros(len(files)), self._read)

        def check() -> Tensor:
            read = read_ahead(images, ([i] for i in range(len(files))), self.workers)
            return self._tried(files, read, "Checking")[1]

        return cached(self._cache_path(files, "indices"), check).tolist()

    def _cache_path(self, files: list[Path], content: str) -> Path:
        key = hashlib.blake2b(digest_size=16)
        form = self.sample_shape, self.fit, self.depth, self.value_range if self.depth == "float" else None
        is_deep_alpha = self.depth != 8 and self.sample_shape[0] in (2, 4)
        version = VERSION_OF_DEEP_ALPHA if is_deep_alpha else VERSION
        key.update(repr((version, form, self.unreadable, content)).encode())
        for path in files:
            stat = path.stat()
            key.update(os.fsencode(path.resolve()) + f"\0{stat.st_size} {stat.st_mtime_ns}\0".encode())
        return cache_folder(self.cache) / f"{key.hexdigest()}.pt"

    def _decode(self, files: list[Path]) -> tuple[Tensor, Tensor]:
        """Decode the readable images, (images, *sample_shape), and return their indices."""
        images, readable = self._tried(files, map(self._read_or_refuse, files), "Reading")
        return torch.stack(images), readable

    def _read_or_refuse(self, path: Path) -> Tensor | UsageError:
        try:
            return self._read(path)
        except UsageError as error:
            return error

    def _tried(self, files: list[Path], read: Iterable[Any], doing: str) -> tuple[list[Any], Tensor]:
        """Read the files with a progress bar; return the images and their indices, and print how many were skipped.

        If the folder is only checked, the images are not kept.
        """
        from rich.markup import escape
        from rich.progress import track

        folder = named(self.root if files[0].is_relative_to(self.root) else str(self.held_out))
        found, readable, skipped = [], [], []
        for i, item in enumerate(track(read, description=f"{doing} {escape(folder)}", total=len(files))):
            if not isinstance(item, UsageError):
                readable.append(i)
                found.append(item if doing == "Reading" else None)
            elif self.unreadable == "refuse":
                raise item
            else:
                skipped.append(files[i])
        if skipped:
            say(f"Skipped {len(skipped)} unreadable images in {folder}, the first of them {named(skipped[0])}.")
        if not readable:
            raise UsageError(f"None of the {len(files)} images in {folder} can be read.")
        return found, torch.tensor(readable)


class _Files(Dataset[tuple[Tensor, int]]):
    """(image, class) items, read on demand."""

    def __init__(self, files: list[Path], labels: Tensor, read: Callable[[Path], Tensor]) -> None:
        self.files = files
        self.labels = labels.tolist()
        self.read = read

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.read(self.files[index]), self.labels[index]


def _class_of(file: Path) -> str:
    """The name of the folder that directly contains a file."""
    return named(file.parent.name)


def _indices(names: Sequence[str], files: list[Path]) -> Tensor:
    """The index of each file's folder in ``names``, -1 for none."""
    positions = {name: i for i, name in enumerate(names)}
    return torch.tensor([positions.get(_class_of(file), -1) for file in files])
