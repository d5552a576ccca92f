"""Signals that end a program, at once or where the run can be resumed; imports only fast modules."""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from gan_lightning.errors import signal_name

# Ctrl-C; stopped by a scheduler or the system; terminal closed; SLURM announces the end of the job's time
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)

Handler = Callable[[int, FrameType | None], Any]


def is_first_process() -> bool:
    """Whether this process is the first or the only one of its run, according to its launcher."""
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    names = ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
    return all(os.environ.get(name, "0") == "0" for name in names)


def listen(handler: Handler) -> dict[int, Any]:
    """Install a handler of the ending signals, in this process but not in its workers; returns the former handlers.

    An ignored SIGHUP stays ignored, as nohup requires.
    """
    process = os.getpid()

    def handle(signum: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            handler(signum, frame)
        elif signum != signal.SIGINT:  # a terminal sends it to workers too, and their parent will end them
            os._exit(128 + signum)

    signals = [s for s in ENDING if s != signal.SIGHUP or signal.getsignal(s) != signal.SIG_IGN]
    return {signum: signal.signal(signum, handle) for signum in signals}


def end_at_once(signum: int, frame: FrameType | None) -> None:
    """Print one line and exit with the status that a shell reports for the signal."""
    if is_first_process():
        say(f"Stopped by {signal_name(signum)}.")
    sys.exit(128 + signum)


def say(line: str) -> None:
    """Write a line to stderr without Python's buffers, which the signal may have interrupted."""
    with suppress(OSError):  # stderr is closed
        os.write(2, f"{line}\n".encode())
