"""Signals that ask a program to end: at once, or where a run can go on; no import here is slow."""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from gan_lightning.errors import signal_name

# Ctrl-C; a scheduler's or the system's end; the terminal has gone; SLURM announces the end of its time
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)

Handler = Callable[[int, FrameType | None], Any]


def is_first_process() -> bool:
    """Whether this process is the first of its run's, or the only one, by what its launcher says."""
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    names = ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
    return all(os.environ.get(name, "0") == "0" for name in names)


def listen(handler: Handler) -> dict[int, Any]:
    """Have the ending signals handled, in this process and not in its workers; returns the former handlers.

    A hangup that is ignored stays so, as nohup asks for.
    """
    process = os.getpid()

    def handle(signum: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            handler(signum, frame)
        elif signum != signal.SIGINT:  # which a terminal sends to workers too, whose process will end them
            os._exit(128 + signum)

    signals = [s for s in ENDING if s != signal.SIGHUP or signal.getsignal(s) != signal.SIG_IGN]
    return {signum: signal.signal(signum, handle) for signum in signals}


def end_at_once(signum: int, frame: FrameType | None) -> None:
    """One line, and the status that a shell gives to such an end."""
    if is_first_process():
        say(f"Stopped by {signal_name(signum)}.")
    sys.exit(128 + signum)


def say(line: str) -> None:
    """A line on stderr, without Python's buffers, which a signal may have come into the middle of."""
    with suppress(OSError):  # nobody reads it any more
        os.write(2, f"{line}\n".encode())
