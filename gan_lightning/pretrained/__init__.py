"""Trained generators that come with the package, each a file of scripts/export.py; no import here is slow."""

from pathlib import Path

from gan_lightning.errors import UsageError

FOLDER = Path(__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def find(checkpoint: str | Path) -> Path:
    """The file or folder of that path or, where there is none, the file of the generator of that name.

    Raises:
        UsageError: there is neither.
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
