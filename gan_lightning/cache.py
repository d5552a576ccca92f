"""What takes long to make, kept in a file."""

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gan_lightning.files import cause_in_the_machine, leftovers, why, written_aside


def cached(path: Path, make: Callable[[], Any]) -> Any:
    """The content of a file of torch's, made and kept there where it is not, or is damaged."""
    for aside in leftovers(path.parent):
        aside.unlink(missing_ok=True)  # half a file, from a process that was killed while it wrote
    if path.exists():
        if is_whole(path):
            return torch.load(path, map_location="cpu", weights_only=True)
        print(f"{path} is damaged and is made again")
    made = make()
    try:
        with written_aside(path) as aside, aside.open("wb") as file:
            torch.save(made, file)
    except (OSError, RuntimeError) as error:
        if (cause := cause_in_the_machine(error)) is None:
            raise
        warnings.warn(f"{path} cannot be kept ({why(cause)}): it is made again the next time.", stacklevel=2)
    return made


def is_whole(path: Path) -> bool:
    """Whether the file is an archive whose parts have their checksums, which torch does not look at."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, EOFError, NotImplementedError):
        return False
