"""Lock a run folder for the processes of one run while its first process lives; imports only fast modules."""

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from gan_lightning.errors import Fault, UsageError
from gan_lightning.files import HOST, is_running, why
from gan_lightning.interruption import is_first_process

NAME = ".lock"  # contains PID@HOST
MOST = 1000  # runs started in the same second
HELD: dict[Path, int] = {}  # folders locked by this process, and their open lock files


class InUse(UsageError):
    """Raised when another process is training in the folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the folder for this process; the run's other processes share the lock, and nested locks do nothing.

    The lock ends with the process, however that ends. On a network file system, it is as reliable as the locks there.

    Raises:
        InUse: another process holds the lock.
        UsageError: the folder cannot be written.
        Fault: its disk is full.
    """
    place = Path(os.path.realpath(folder))
    if place in HELD or not is_first_process():
        yield
        return
    HELD[place] = _acquired(folder)
    try:
        yield
    finally:
        if is_in_place(folder):
            (folder / NAME).unlink()  # still held: a process that waits for this file will find it removed
        os.close(HELD.pop(place))


@contextmanager
def claimed(folder: Path, others: bool) -> Iterator[Path]:
    """Lock a folder for a run: this one or, with ``others``, the first of FOLDER, FOLDER-2, ... that is free.

    Raises:
        UsageError: another process holds its lock, or it cannot be written.
    """
    with ExitStack() as stack:
        yield _claim(folder, stack) if others else stack.enter_context(_placed(folder))


def _claim(folder: Path, stack: ExitStack) -> Path:
    for i in range(1, MOST):
        place = folder if i == 1 else folder.with_name(f"{folder.name}-{i}")
        place.mkdir(exist_ok=True)
        with suppress(InUse), ExitStack() as attempt:
            attempt.enter_context(locked(place))
            if not (place / "config.yaml").exists():
                stack.push(attempt.pop_all())
                return place
    raise InUse(f"{folder} and {MOST - 1} others are in use: choose another hydra.run.dir.")


@contextmanager
def _placed(folder: Path) -> Iterator[Path]:
    with locked(folder):
        yield folder


def is_in_place(folder: Path) -> bool:
    """Whether the folder that this process locked is still at its path; true without a lock."""
    descriptor = HELD.get(Path(os.path.realpath(folder)))
    return descriptor is None or _is_file(descriptor, folder / NAME)


def _acquired(folder: Path) -> int:
    """Lock the folder and return the open lock file."""
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UsageError(
                f"{folder} cannot be written ({why(error)}): choose another hydra.run.dir, or change its permissions."
            ) from error
        try:
            _lock(descriptor, folder)
            if _is_file(descriptor, folder / NAME):  # not one that its owner has just removed
                _sign(descriptor, folder)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    except BlockingIOError:
        owner = _owner(descriptor)
    except OSError:  # a file system without locks
        owner = _owner(descriptor)
        if owner is None or owner[1] != HOST or not is_running(owner[0]) or owner[0] == os.getpid():
            return
    who = f"process {owner[0]} on {owner[1]}" if owner else "another process"
    raise InUse(f"{folder} is in use by {who}: wait until it ends, or stop it there.")


def _owner(descriptor: int) -> tuple[int, str] | None:
    """The process and host that a lock file names; None while its owner is still writing them."""
    found = re.fullmatch(r"(\d+)@(.+)\n", os.pread(descriptor, 1000, 0).decode(errors="replace"))
    return (int(found[1]), found[2]) if found else None


def _sign(descriptor: int, folder: Path) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}@{HOST}\n".encode(), 0)
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise UsageError(f"{folder} cannot be written ({why(error)}): choose another hydra.run.dir.") from error
        raise Fault(f"{folder} cannot be written ({why(error)}): free some space.") from error


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _forget() -> None:
    """Close the lock files inherited by a worker, which would hold the lock after its owner has ended."""
    for descriptor in HELD.values():
        os.close(descriptor)
    HELD.clear()


os.register_at_fork(after_in_child=_forget)
