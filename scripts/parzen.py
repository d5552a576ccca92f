"""Estimate the Parzen-window log-likelihood of MNIST's test images under a trained generator (Goodfellow et al. 2014).

    python scripts/parzen.py checkpoint=RUN_FOLDER [n=10000 root=FOLDER_WITH_MNIST]

The width of the window is chosen on the first 1,000 of the last 10,000 training images. Prints the mean over the 10,000
test images and its standard error, in nats. The paper reports 225 +- 2 for its MNIST network.
"""

from gan_lightning.interruption import end_at_once, listen

if __name__ == "__main__":
    listen(end_at_once)  # before the slow imports

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from omegaconf import MISSING, OmegaConf

from gan_lightning.checks import SEED, SIZE, check_values
from gan_lightning.errors import UsageError
from gan_lightning.options import CHECKPOINT, check_checkpoint, read_options, refusals

if TYPE_CHECKING:
    from torch import Tensor

    from gan_lightning.gan import GAN


@dataclass
class Options:
    checkpoint: Annotated[Path, CHECKPOINT] = MISSING
    n: Annotated[int, "number of samples"] = 10_000
    seed: Annotated[int, "seed of the latents"] = 0
    root: Annotated[Path | None, "folder that contains MNIST/raw; null for the run's"] = None
    trust: Annotated[list[str], "further packages that the checkpoint may import"] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_values(self, n=SIZE, seed=SEED)
        check_checkpoint(self.checkpoint)


def read(options: Options, gan: "GAN") -> tuple["Tensor", "Tensor", tuple[float, float]]:
    """Read the training and test images as rows in [0, 1], and the range of the generator's pixels.

    Raises:
        UsageError: the run was not trained on MNIST, or the images do not exist.
    """
    from gan_lightning.build import build_data
    from gan_lightning.data.torchvision import MNIST

    config = OmegaConf.create(gan.config)
    data = build_data(config)
    if type(data) is not MNIST:
        raise UsageError(f"{options.checkpoint} was not trained on data=mnist: give a run on MNIST.")
    if options.root is not None:
        config.data.root = str(options.root.absolute())
        data = build_data(config)
    try:
        train, test = (data.read(train=train)[0].flatten(1) / 255 for train in (True, False))  # type: ignore[attr-defined]
    except (ValueError, OSError) as error:
        raise UsageError(str(error).replace("data.root", "root")) from error
    assert data.value_range is not None
    return train, test, data.value_range


def log_likelihoods(options: Options) -> tuple["Tensor", float]:
    """The log-likelihood of every test image in nats, and the window's width.

    Raises:
        UsageError: the checkpoint or the images cannot be used.
    """
    import torch

    from gan_lightning.checkpoints import load
    from gan_lightning.metrics.parzen import choose_sigma, log_likelihood

    gan = load(options.checkpoint, trust=options.trust)
    train, test, (low, high) = read(options, gan)
    noise = torch.Generator().manual_seed(options.seed)
    samples = torch.cat([gan.sample(min(1000, options.n - i), noise) for i in range(0, options.n, 1000)])
    samples = (samples.flatten(1) - low) / (high - low)
    sigma = choose_sigma(train[-10_000:][:1000], samples)
    return log_likelihood(test, samples, sigma), sigma


def main() -> None:
    options = read_options(Options, __doc__)
    with refusals():
        nats, sigma = log_likelihoods(options)
    error = nats.std() / math.sqrt(len(nats))
    print(f"{nats.mean():.1f} +- {error:.1f} nats, sigma {sigma:.3f}, {options.n} samples")


if __name__ == "__main__":
    main()
