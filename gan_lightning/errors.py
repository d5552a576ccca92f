"""How a run can end before its length, each with the exit status of its own; no import here is slow."""

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
        """As a shell has it of a program that a signal has ended."""
        return 128 + self.signum


ENDINGS = (UsageError, Diverged, Fault, Stopped)


def signal_name(signum: int) -> str:
    """As people call it."""
    return "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name


def severity(status: int) -> int:
    """By which the statuses of several runs are compared: diverged, refused, failed by the machine, others, stopped."""
    order = [FINISHED, Diverged.status, UsageError.status, Fault.status]
    return order.index(status) if status in order else max(status, len(order))


def warn(sentence: str) -> None:
    """A warning about the run, which stands at no line of code that would be printed below it."""
    warnings.warn_explicit(sentence, UserWarning, "gan_lightning", 0)
