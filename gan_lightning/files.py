"""Files that are whole or not there; no import here is slow."""

import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ASIDE = re.compile(r"\..+?\.(\d{1,7})(\.[^.]+)?")  # .NAME.PID.ENDING; the ending is kept, as many writers go by it


@contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """A hidden file to write beside ``path``, which takes its place at the end; if anything is raised, nothing changes.

    A kill or a power cut leaves the former content or the new one, whole. Folders are made where they are missing.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        yield path  # a pipe or a device, which must not be replaced
        return
    path = Path(os.path.realpath(path))  # through links, as a plain write
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield aside
        _sync(aside)  # before the rename, which may reach the disk first
        aside.replace(path)
        with suppress(OSError):  # some network file systems cannot
            _sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def is_damaged(path: Path) -> bool:
    """Whether a file of torch.save is not as it was written, by its checksums, which torch does not compare."""
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            return False  # no such file
    try:
        with zipfile.ZipFile(path) as archive:
            # torch reads nothing, and gives what lies in memory, where an attribute says that a part is a folder
            return any(part.external_attr for part in archive.infolist()) or archive.testzip() is not None
    except Exception:  # what a damaged directory of the file leads to has many kinds
        return True


def leftovers(folder: Path) -> list[Path]:
    """The hidden files of ``written_aside`` in a folder whose processes no longer run on this machine."""
    found = [(path, ASIDE.fullmatch(path.name)) for path in folder.glob(".*")]
    return sorted(path for path, match in found if match and path.is_file() and not _is_running(int(match[1])))


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def _sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
