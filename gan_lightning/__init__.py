"""Generative adversarial networks in PyTorch Lightning, measured against known truth."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gan_lightning.augment import ADA as ADA
    from gan_lightning.augment import Augment as Augment
    from gan_lightning.augment import DiffAugment as DiffAugment
    from gan_lightning.batch import Batch as Batch
    from gan_lightning.checkpoints import load as load
    from gan_lightning.errors import Diverged as Diverged
    from gan_lightning.errors import UsageError as UsageError
    from gan_lightning.game import Game as Game
    from gan_lightning.game import Terms as Terms
    from gan_lightning.gan import GAN as GAN
    from gan_lightning.losses import Hinge as Hinge
    from gan_lightning.losses import Loss as Loss
    from gan_lightning.losses import NonSaturating as NonSaturating
    from gan_lightning.losses import Relativistic as Relativistic
    from gan_lightning.priors import Normal as Normal
    from gan_lightning.priors import Prior as Prior
    from gan_lightning.regularizers import R1 as R1
    from gan_lightning.regularizers import R2 as R2
    from gan_lightning.regularizers import GradientPenalty as GradientPenalty
    from gan_lightning.regularizers import Regularizer as Regularizer

ROOMS = {
    "augment": ["ADA", "Augment", "DiffAugment"],
    "batch": ["Batch"],
    "checkpoints": ["load"],
    "errors": ["Diverged", "UsageError"],
    "game": ["Game", "Terms"],
    "gan": ["GAN"],
    "losses": ["Hinge", "Loss", "NonSaturating", "Relativistic"],
    "priors": ["Normal", "Prior"],
    "regularizers": ["R1", "R2", "GradientPenalty", "Regularizer"],
}
__all__ = [name for names in ROOMS.values() for name in names]
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    # imported on first use: torch and Lightning take seconds to import, and --help must be fast
    for room, names in ROOMS.items():
        if name in names:
            return getattr(import_module(f"gan_lightning.{room}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
