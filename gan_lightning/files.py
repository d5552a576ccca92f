"""Files that are whole or not there; no import here is slow."""

import errno
import os
import re
import shutil
import socket
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gan_lightning.errors import Fault, warn

HOST = re.sub(r"[^\w-]+", "-", socket.gethostname(), flags=re.ASCII)[:40] or "localhost"
# .NAME.PID@HOST.ENDING; the ending is kept, as many writers go by it
ASIDE = re.compile(r"\..+?\.(\d{1,7})(?:@([\w-]+))?(\.[^.]+)?", re.ASCII)
ABANDONED = 3600.0  # seconds after which nobody writes a file any more that another host has begun


@contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """A hidden file to write beside ``path``, which takes its place at the end; if anything is raised, nothing changes.

    It may be made a folder, whose place is free or an empty one. A kill or a power cut leaves the former content or the
    new one, whole. Folders are made where they are missing.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        yield path  # a pipe or a device, which must not be replaced
        return
    path = Path(os.path.realpath(path))  # through links, as a plain write
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.stem}.{os.getpid()}@{HOST}{path.suffix}")
    try:
        yield aside
        _sync(aside)  # before the rename, which may reach the disk first
        aside.replace(path)
        with suppress(OSError):  # some network file systems cannot
            _sync(path.parent)
    finally:
        if aside.is_dir():
            shutil.rmtree(aside)
        else:
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


@contextmanager
def needed(path: str | Path) -> Iterator[None]:
    """Around the writing of what a run cannot do without.

    Raises:
        Fault: the machine does not let it be written.
    """
    try:
        yield
    except Exception as error:  # torch and TensorBoard hide the system's in one of their own
        if (cause := cause_in_the_machine(error)) is None:
            raise
        raise Fault(
            f"{path} cannot be written ({why(cause)}): what was there is whole; mend that, and go on by "
            "resume=RUN_FOLDER."
        ) from error


@contextmanager
def spared(what: str) -> Iterator[None]:
    """Around the writing of what a run can do without: where the machine does not let it, one warning, not an error."""
    try:
        yield
    except Exception as error:  # torch and TensorBoard hide the system's in one of their own
        if (cause := cause_in_the_machine(error)) is None:
            raise
        warn_once(f"{what} cannot be written ({why(cause)}): training continues without it and will try again.", what)


# a full or failing disk, one that is read-only, a folder that has gone or is a file
MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
}
DATABASE = {3, 8, 10, 13, 14}  # SQLite's codes of the same: no permission, read-only, failing, full, not to be opened
WARNED: set[str] = set()


def warn_once(sentence: str, what: str) -> None:
    """A warning, the first time in this process for that thing."""
    if what not in WARNED:
        WARNED.add(what)
        warn(sentence)


def cause_in_the_machine(error: BaseException) -> OSError | None:
    """The operating system's refusal that an error is or comes from, as torch and others hide it; None without."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in MACHINE:
            return seen
        if getattr(seen, "sqlite_errorcode", 0) & 0xFF in DATABASE:
            return OSError(errno.EIO, str(seen))
        seen = seen.__cause__ or seen.__context__
    return None


def why(error: OSError) -> str:
    """In words."""
    return (error.strerror or str(error)).lower()


def leftovers(folder: Path) -> list[Path]:
    """The hidden files of ``written_aside`` in a folder whose processes have ended.

    Those of another host are known by their age alone.
    """
    found = [(path, ASIDE.fullmatch(path.name)) for path in folder.glob(".*")]
    return sorted(path for path, match in found if match and path.is_file() and _is_abandoned(path, match))


def _is_abandoned(path: Path, match: re.Match[str]) -> bool:
    if match[2] in (None, HOST):
        return not is_running(int(match[1]))
    with suppress(OSError):
        return time.time() - path.stat().st_mtime > ABANDONED
    return False


def is_running(pid: int) -> bool:
    """Whether this machine has such a process."""
    try:
        os.kill(pid, 0)  # sends nothing
    except (ProcessLookupError, OverflowError):
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
