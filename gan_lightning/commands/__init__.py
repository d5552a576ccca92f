"""The package's programs: gan-train, train.py in a checkout, and others, which are in scripts/ there."""

import os
import sys
from functools import partial
from importlib import import_module
from typing import Any

from gan_lightning.interruption import end_at_once, listen


class Output:
    """Standard output whose reader may leave, as in ``| head``: the program goes on, and the rest is not shown."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return self._unless_left(self._stream.write, text) or 0

    def flush(self) -> None:
        self._unless_left(self._stream.flush)

    def _unless_left(self, call: Any, *args: str) -> Any:
        try:
            return call(*args)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def begin(name: str) -> None:
    """Run a program with the command line's arguments; Ctrl-C ends it with one line even during imports."""
    listen(end_at_once)
    if sys.stdout is not None:  # as it is if closed
        sys.stdout = Output(sys.stdout)
    import_module(f"gan_lightning.commands.{name}").main()


gan_train, gan_sample, gan_evaluate, gan_export, gan_report = (
    partial(begin, name) for name in ("train", "sample", "evaluate", "export", "report")
)
