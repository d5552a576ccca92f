"""Cache files, stored with a digest of their content and recreated if damaged."""

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from gan_lightning.errors import UsageError
from gan_lightning.files import leftovers, written_aside


def cache_folder(folder: str | Path) -> Path:
    """The folder of the caches, which is created if it does not exist.

    Raises:
        UsageError: it is empty and cannot be written.
    """
    try:
        path = Path(folder).expanduser()
        path.mkdir(parents=True, exist_ok=True)
        if not any(path.iterdir()):
            tempfile.TemporaryFile(dir=path).close()
    except (OSError, RuntimeError) as error:  # RuntimeError if there is no home folder
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise UsageError(
            f"data.cache={folder} cannot be written ({reason}): give another data.cache=FOLDER."
        ) from error
    return path


def cached(path: Path, make: Callable[[], Any]) -> Any:
    """The result of ``make``, tensors in plain containers: read from a file if that is intact, else made and saved."""
    if path.exists():
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            if saved["digest"] == digest_of(saved["content"]):
                return saved["content"]
        except Exception:  # torch.load raises many kinds of exception, which all mean the same here
            pass
        say(f"{path} is damaged: it is recreated.")
    for leftover in leftovers(path.parent) if path.parent.is_dir() else ():
        leftover.unlink(missing_ok=True)
    content = make()
    try:
        with written_aside(path) as aside, aside.open("wb") as file:
            torch.save({"digest": digest_of(content), "content": content}, file)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError if the disk is full
        say(f"{path} cannot be written ({' '.join(str(error).split())}): the next run will recreate it.")
    return content


def digest_of(content: Any) -> str:
    """32 hexadecimal digits that depend on the types, shapes and values of tensors in plain containers."""
    digest = hashlib.blake2b(digest_size=16)
    _add(digest, content)
    return digest.hexdigest()


def _add(digest: Any, content: Any) -> None:
    if isinstance(content, Tensor):
        digest.update(repr((content.dtype, tuple(content.shape))).encode())
        digest.update(content.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    elif isinstance(content, Mapping):
        for name, value in content.items():
            digest.update(repr(name).encode())
            _add(digest, value)
    elif isinstance(content, list | tuple):
        digest.update(repr((type(content), len(content))).encode())
        for value in content:
            _add(digest, value)
    else:
        digest.update(repr(content).encode())


@rank_zero_only
def say(line: str) -> None:
    """Print a line in the first process only, unless it is empty."""
    if line:
        print(line)
