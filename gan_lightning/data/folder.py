"""A folder of images, whose subfolders are classes: in memory, or read by worker processes."""

import hashlib
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from gan_lightning.cache import cached
from gan_lightning.data.images import ImageData
from gan_lightning.errors import UsageError

IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}


class ImageFolder(ImageData):
    """All images in a folder and its subfolders, scaled by the shorter side and cropped at the centre to ``size``.

    The folder that directly holds an image is its class, unless all images lie in ``root`` itself: then there are no
    classes. The scaled images are cached, so that only the first run reads them all; a folder that would take more than
    ``memory_limit`` GiB is read by worker processes at every run. ``held_out`` is another folder, with folders of the
    same names.
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
            raise UsageError(f"data.channels is {channels}: choose 1 (grey) or 3 (colour).")
        self.sample_shape = (channels, size, size)
        self.unreadable = unreadable
        self.memory_limit = memory_limit
        self.held_out = None if held_out is None else Path(held_out).expanduser()
        if self.held_out is not None:
            train, test = self.root.resolve(), self.held_out.resolve()
            if train.is_relative_to(test) or test.is_relative_to(train):
                raise UsageError(
                    f"data.held_out={held_out} and data.root={root} have images in common, which would be trained on: "
                    "give two folders of which none is in the other."
                )

    def setup(self, stage: str | None = None) -> None:
        if not hasattr(self, "images"):
            files = self._training_files
            if self.chosen is not None:
                files = [file for file in files if file.parent.name in self.class_names]
            if self._fits(files):
                images, readable = self._load(files)
                self.images, self.labels = images, self._labels(files)[readable] if self.classes else None
            else:
                self.images = _Files(files, self._labels(files), self.sample_shape, self.unreadable)
        super().setup(stage)

    @cached_property
    def _training_files(self) -> list[Path]:
        return self._files(self.root)

    @cached_property
    def all_class_names(self) -> Sequence[str]:
        parents = {file.parent for file in self._training_files}
        return () if parents == {self.root} else sorted({parent.name for parent in parents})

    def _labels(self, files: list[Path]) -> Tensor:
        """Which of ``class_names`` each file's folder is, -1 for none."""
        return _indices(self.class_names, files)

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """All images of ``root`` or ``held_out``, uint8 (n, *sample_shape), and their classes, (n,).

        Inception needs no classes: for it, -1 is a folder that ``root`` does not have.
        """
        folder = self.root if train else self.held_out
        if folder is None:
            raise UsageError(
                "data.held_out is not set: image metrics compare with images that are not trained on, so give a folder "
                "of such."
            )
        files = self._training_files if train else self._files(folder)
        if not self._fits(files):
            raise UsageError(
                f"{folder} takes more than data.memory_limit={self.memory_limit} GiB, and image metrics need it in "
                "memory: give a higher limit" + (", or data.features=inception." if train else ".")
            )
        names = self.all_class_names
        unknown = sorted({file.parent.name for file in files} - set(names))
        if names and unknown and self.features == "own":
            raise UsageError(
                f"data.held_out has folders, such as {unknown[0]!r}, that {self.root} does not have: give the same "
                "folders, or data.features=inception."
            )
        images, readable = self._load(files)
        return images, _indices(names, files)[readable]

    def _fits(self, files: list[Path]) -> bool:
        return len(files) * math.prod(self.sample_shape) <= self.memory_limit * 2**30

    def _class_index(self, name: int | str) -> int:
        names = list(self.all_class_names)
        if not names:
            raise UsageError(f"data.classes names {name!r}: {self.root} has no folders, which would be classes.")
        if str(name) not in names:
            raise UsageError(f"data.classes names {name!r}: {self.root} has the folders {', '.join(names)}.")
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
            raise UsageError(f"data.{option}={folder} {state}: give a folder with {' '.join(sorted(IMAGE_ENDINGS))}.")
        return files

    def _load(self, files: list[Path]) -> tuple[Tensor, Tensor]:
        """The readable images, from the cache or from their files, and their indices among the files."""
        return cached(self._cache_path(files), lambda: self._decode(files))

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
            raise UsageError(f"None of the {len(files)} images in {folder} can be read.")
        return torch.stack(images), torch.tensor(readable)


class _Files(Dataset[tuple[Tensor, int]]):
    """(image, class) read when asked for; the next readable one stands in for an unreadable one that is skipped."""

    def __init__(self, files: list[Path], labels: Tensor, sample_shape: tuple[int, ...], unreadable: str) -> None:
        self.files = files
        self.labels = labels.tolist()
        self.sample_shape = sample_shape
        self.unreadable = unreadable

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        for skipped in range(len(self)):
            i = (index + skipped) % len(self)
            try:
                return read_image(self.files[i], self.sample_shape), self.labels[i]
            except ValueError:
                if self.unreadable == "refuse" or skipped == len(self) - 1:
                    raise
        raise IndexError(index)


def _indices(names: Sequence[str], files: list[Path]) -> Tensor:
    """Where the name of each file's folder stands among the names, -1 for nowhere."""
    positions = {name: i for i, name in enumerate(names)}
    return torch.tensor([positions.get(file.parent.name, -1) for file in files])


def read_image(path: Path, sample_shape: tuple[int, ...]) -> Tensor:
    """One image file as uint8 (channels, size, size), scaled by its shorter side and cropped at the centre.

    Raises:
        UsageError: the file is not a readable image.
    """
    channels, size, _ = sample_shape
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I;16"):  # 16 bits a pixel, which convert would cut off at 255
                image = image.point(lambda value: value / 257).convert("L")
            image = image.convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(
            f"{path} is not a readable image ({error}): remove it, or pass over such files with data.unreadable=skip."
        ) from error
    width, height = (max(size, round(side * size / min(image.size))) for side in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    left, top = (width - size) // 2, (height - size) // 2
    image = image.crop((left, top, left + size, top + size))
    data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return data.view(size, size, channels).permute(2, 0, 1).contiguous()
