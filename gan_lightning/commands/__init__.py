"""The package's programs: gan-train, train.py in a checkout, and others, which are in scripts/ there."""

from functools import partial
from importlib import import_module

from gan_lightning.interruption import end_at_once, listen


def begin(name: str) -> None:
    """Run a program with the command line's arguments; Ctrl-C ends it with one line even during imports."""
    listen(end_at_once)
    import_module(f"gan_lightning.commands.{name}").main()


gan_train, gan_sample, gan_evaluate, gan_export, gan_report = (
    partial(begin, name) for name in ("train", "sample", "evaluate", "export", "report")
)
