"""Initialize a run with the weights of another."""

from pathlib import Path
from typing import Any

from torch import Tensor

from gan_lightning.callbacks.checkpoint import checkpoints
from gan_lightning.checkpoints import read_checkpoint, shape_of
from gan_lightning.errors import UsageError
from gan_lightning.gan import GAN

AVERAGE = "average.network."


def start_from(gan: GAN, path: str | Path) -> None:
    """Load the players' networks and their averages from a checkpoint, or from a run folder's last checkpoint.

    If only this GAN has an average, the average is initialized with the live networks.

    Raises:
        UsageError: the file is not a checkpoint, or a weight is missing on one side or has another shape.
    """
    place = Path(path)
    saved = read_checkpoint(checkpoints(place) / "last.ckpt" if place.is_dir() else place)["state_dict"]
    own, given = _networks(gan.state_dict(), gan), _networks(saved, gan)
    if not any(name.startswith(AVERAGE) for name in given):
        averaged = {name: AVERAGE + name.removeprefix("game.") for name in given}
        given |= {average: given[name] for name, average in averaged.items() if average in own}
    if gan.average is None:
        given = {name: value for name, value in given.items() if not name.startswith(AVERAGE)}
    for name in own | given:
        shapes = [shape_of(side[name]) if name in side else "absent" for side in (given, own)]
        if shapes[0] != shapes[1]:
            raise UsageError(
                f"start_from={path} does not fit: its {name} is {shapes[0]}, but this run's is {shapes[1]}: choose the "
                "model and data that it was trained with, or leave out start_from."
            )
    gan.load_state_dict(given, strict=False)


def _networks(state: dict[str, Any], gan: GAN) -> dict[str, Tensor]:
    """The entries of a state that belong to the players' networks, live or averaged."""
    played = {network for networks in gan.game.players().values() for network in networks}
    names = [name for name, part in gan.game.named_children() if part in played]
    beginnings = tuple(f"{place}{name}." for place in ("game.", AVERAGE) for name in names)
    return {name: value for name, value in state.items() if name.startswith(beginnings)}
