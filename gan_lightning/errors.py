"""How a run can end before its length, each with the exit status of its own; no import here is slow."""

import signal
import warnings

FINISHED = 0


class UsageError(ValueError):
    """The configuration or the data cannot be used; the message says what to do."""

    status = 1


class Diverged(RuntimeError):
    """A loss or a weight is no longer finite."""

    status = 3


class Fault(RuntimeError):
    """The machine has failed: a disk is full, a folder is gone, a process was killed."""

    status = 4


class Stopped(RuntimeError):
    """A signal has ended the run; what it has learnt is in its checkpoint."""

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
