"""Write files that are either complete or absent; imports only fast modules."""

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
# .NAME.PID@HOST.ENDING; the ending is kept because many writers choose the format by it
ASIDE = re.compile(r"\..+?\.(\d{1,7})(?:@([\w-]+))?(\.[^.]+)?", re.ASCII)
ABANDONED = 3600.0  # seconds after which a partial file of another host counts as abandoned


@contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """Yield a hidden file to write, which replaces ``path`` on exit; after an exception, ``path`` is unchanged.

    It may be created as a folder if ``path`` does not exist or is an empty folder. A kill or a power cut leaves either
    the old or the new content, complete. Missing parent folders are created.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        yield path  # pipes and devices must not be replaced
        return
    path = Path(os.path.realpath(path))  # follows links, as a plain write does
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
    """Whether a file of torch.save is damaged, according to its checksums, which torch does not verify."""
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            return False  # not a file of torch.save
    try:
        with zipfile.ZipFile(path) as archive:
            # if an attribute marks a part as a folder, torch reads nothing and returns uninitialized memory
            return any(part.external_attr for part in archive.infolist()) or archive.testzip() is not None
    except Exception:  # a damaged directory of the archive raises many kinds of exception
        return True


@contextmanager
def needed(path: str | Path) -> Iterator[None]:
    """Write something that a run cannot do without.

    Raises:
        Fault: the operating system refuses to write it.
    """
    try:
        yield
    except Exception as error:  # torch and TensorBoard hide the system's in one of their own
        if (cause := cause_in_the_machine(error)) is None:
            raise
        raise Fault(
            f"{path} cannot be written ({why(cause)}): what was there is intact; fix the problem, and resume with "
            "resume=RUN_FOLDER."
        ) from error


@contextmanager
def spared(what: str) -> Iterator[None]:
    """Write something that a run can do without: if the operating system refuses, warn once and continue."""
    try:
        yield
    except Exception as error:  # torch and TensorBoard hide the system's in one of their own
        if (cause := cause_in_the_machine(error)) is None:
            raise
        warn_once(f"{what} cannot be written ({why(cause)}): training continues without it and will try again.", what)


# a full, failing or read-only disk, a folder that has disappeared or is a file
MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
}
DATABASE = {3, 8, 10, 13, 14}  # SQLite's codes for these: no permission, read-only, I/O error, full, cannot open
WARNED: set[str] = set()


def warn_once(sentence: str, what: str) -> None:
    """Issue a warning, once per process for each ``what``."""
    if what not in WARNED:
        WARNED.add(what)
        warn(sentence)


def cause_in_the_machine(error: BaseException) -> OSError | None:
    """The operating system's error that an exception is or wraps, as torch and others do; None if there is none."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in MACHINE:
            return seen
        if getattr(seen, "sqlite_errorcode", 0) & 0xFF in DATABASE:
            return OSError(errno.EIO, str(seen))
        seen = seen.__cause__ or seen.__context__
    return None


def why(error: OSError) -> str:
    """The cause of an error, in words."""
    return (error.strerror or str(error)).lower()


def leftovers(folder: Path) -> list[Path]:
    """The hidden files of ``written_aside`` in a folder whose processes have ended.

    Files of other hosts are judged by their age alone.
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
    """Whether a process with this ID runs on this machine."""
    try:
        os.kill(pid, 0)  # sends nothing
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return True


def _sync(path: Path) -> None:
    """Wait until a file or folder has been written to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
