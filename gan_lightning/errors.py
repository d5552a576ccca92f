"""Exceptions that end a run early, each with its exit status; imports only fast modules."""

import signal
import warnings

FINISHED = 0


class UsageError(ValueError):
    """Raised for options or data that cannot be used; the message says what to do."""

    status = 1


class Diverged(RuntimeError):
    """Raised when a loss or a weight is no longer finite."""

    status = 3


class Fault(RuntimeError):
    """Raised when the machine fails: a full disk, a missing folder, a killed process."""

    status = 4


class Stopped(RuntimeError):
    """Raised when a signal ends the run, after saving a checkpoint."""

    def __init__(self, signum: int, message: str = "") -> None:
        super().__init__(signum, message)
        self.signum = signum
        self.message = message or f"Stopped by {signal_name(signum)}."

    def __str__(self) -> str:
        return self.message

    @property
    def status(self) -> int:
        """The exit status that a shell reports for a process ended by this signal."""
        return 128 + self.signum


ENDINGS = (UsageError, Diverged, Fault, Stopped)


def signal_name(signum: int) -> str:
    """The signal's name as users know it."""
    return "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name


def severity(status: int) -> int:
    """Rank of an exit status, from mild to severe: finished, diverged, refused, machine fault, then all others."""
    order = [FINISHED, Diverged.status, UsageError.status, Fault.status]
    return order.index(status) if status in order else max(status, len(order))


def warn(sentence: str) -> None:
    """Issue a warning about the run that shows no line of source code."""
    warnings.warn_explicit(sentence, UserWarning, "gan_lightning", 0)
