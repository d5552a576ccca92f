"""What can go wrong in a way that a person can mend; no import here is slow."""


class UsageError(ValueError):
    """The configuration or the data cannot be used; the message says what to do."""


class Diverged(RuntimeError):
    """A loss or a weight is no longer finite."""
