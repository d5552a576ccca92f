"""Trained generators that come with the package, written by scripts/export.py; imports only fast modules."""

from pathlib import Path

from gan_lightning.errors import UsageError

FOLDER = Path(__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def find(checkpoint: str | Path) -> Path:
    """The file or folder at a path or, if it does not exist, the file of the generator with that name.

    Raises:
        UsageError: neither exists.
    """
    path = Path(checkpoint)
    if path.exists():
        return path
    if str(checkpoint) in NAMES:
        return FOLDER / f"{checkpoint}.safetensors"
    raise UsageError(
        f"{path} does not exist: give the folder of a run, a checkpoint or one of the trained generators, "
        f"{', '.join(NAMES)}."
    )
