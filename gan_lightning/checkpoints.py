"""Read checkpoints and rebuild their GANs."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf
from torch import nn
from torch.nn.parameter import is_lazy

from gan_lightning import __version__, pretrained, weights
from gan_lightning.build import build_gan
from gan_lightning.callbacks.checkpoint import checkpoints
from gan_lightning.callbacks.summary import METRICS
from gan_lightning.config import check
from gan_lightning.errors import UsageError
from gan_lightning.files import is_damaged, leftovers
from gan_lightning.gan import GAN
from gan_lightning.trust import check_file


def load(path: str | Path, gan: GAN | None = None, trust: Sequence[str] = ()) -> GAN:
    """Load the trained GAN of a checkpoint, or of a run folder's last checkpoint, in evaluation mode.

    A ``.safetensors`` file written by export.py, or the name of one that comes with the package, holds only the
    generator.

    ``trust`` names packages whose classes and functions it may use besides those of this package, torch and Lightning.
    A checkpoint of a plain Trainer has no configuration: pass ``gan``, the GAN that its weights belong to.

    Raises:
        UsageError: the file is not a checkpoint of this package, or belongs to another GAN.
    """
    path = pretrained.find(path)
    path = checkpoints(path) / "last.ckpt" if path.is_dir() else path
    is_alone = path.suffix.lower() == weights.ENDING
    saved = weights.read(path) if is_alone else read_checkpoint(path)
    config, described = saved["gan"]["config"], saved["gan"]["data"]
    if gan is None:
        if not config:
            raise UsageError(f"{path} was trained without a configuration: give its GAN, load({path}, gan=GAN(...)).")
        check_file(config, path, trust)
        config = OmegaConf.create(config)
        check(config, {})
        shape, classes = tuple(described["sample_shape"]), len(described["class_names"])
        gan = build_gan(config, shape, classes, described.get("blocks", ()))
    networks = weights.alone(gan, saved["weights"], path) if is_alone else gan
    check_architecture(path, saved, networks)
    networks.load_state_dict(saved["state_dict"])
    gan.described = described
    gan.seed = saved["gan"]["seed"]
    gan.loaded_step = saved["global_step"]
    gan.evaluated = [part for part in gan.modules() if part.training]
    return gan.eval()


def tidy(folder: Path) -> None:
    """Remove partial files left by processes of the run that were killed while writing."""
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        for place in (folder, *(path for path in folder.iterdir() if path.is_dir())):  # of any callback
            for aside in leftovers(place):
                aside.unlink(missing_ok=True)


def last_checkpoint(folder: Path) -> Path | None:
    """The run's last checkpoint; None if it was stopped before the first one, so that it starts again.

    Raises:
        UsageError: it is missing, but an earlier one exists or the run has finished.
    """
    last = checkpoints(folder) / "last.ckpt"
    # the first best.ckpt is written before the first last.ckpt, and before other callbacks have seen the epoch's end
    had_last = last.with_name("previous.ckpt").exists() or (folder / METRICS).exists()
    if not last.exists() and had_last and (earlier := _whole_beside(last)):
        raise UsageError(f"{last} is missing: {earlier}.")
    if not last.exists() and (folder / METRICS).exists():
        raise UsageError(
            f"{folder} has finished and has no {last.name} to continue from: start a new run in another folder."
        )
    return last if last.exists() else None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, and check that it is intact."""
    if not path.is_file():
        raise UsageError(f"{path} does not exist: give a checkpoint or the folder of a run.")
    if is_damaged(path):
        raise UsageError(f"{path} is damaged: {_whole_beside(path) or 'the run has no other'}.")
    try:
        return _content(path)
    except Exception as error:  # torch.load raises many kinds of exception, which all mean the same here
        advice = _whole_beside(path) or "give one that this version wrote"
        raise UsageError(f"{path} is not a checkpoint of gan_lightning {__version__}: {advice}.") from error


def _content(path: Path) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    saved["gan"]["config"], saved["gan"]["data"], saved["state_dict"], saved["global_step"]
    return saved


def _whole_beside(path: Path) -> str:
    """How to use another checkpoint of the run instead; empty if none is intact."""
    for name in ("last.ckpt", "previous.ckpt", "best.ckpt"):
        other = path.with_name(name)
        if other == path or not other.is_file() or is_damaged(other):
            continue
        try:
            step = _content(other)["global_step"]
        except Exception:  # as above
            continue
        if path.name == "last.ckpt":
            return (
                f"to go on from step {step}, cp {shlex.quote(str(other))} {shlex.quote(str(path))}, then resume again"
            )
        return f"{other}, of step {step}, is intact"
    return ""


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of an entry of a state; () for a module's extra state, which may be anything."""
    return tuple(getattr(value, "shape", ()))


def check_architecture(path: Path, saved: dict[str, Any], networks: nn.Module) -> None:
    found = {name: shape_of(value) for name, value in saved["state_dict"].items()}
    # a lazy layer takes the shape that it is given
    expected = {n: found.get(n) if is_lazy(value) else shape_of(value) for n, value in networks.state_dict().items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise UsageError(
                f"{path} belongs to another architecture: its {name} is {found.get(name, 'absent')} and the "
                f"configuration's is {expected.get(name, 'absent')}; resume with the model's own options."
            )
