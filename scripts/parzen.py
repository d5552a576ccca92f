"""Parzen-window log-likelihood of MNIST's test images under a trained generator, as Goodfellow et al. 2014 measure it.

    python scripts/parzen.py CHECKPOINT_OR_RUN_FOLDER --data FOLDER_WITH_MNIST [--samples 10000] [--seed 0]

10,000 samples; the width is chosen on the last 10,000 training images' first 1,000; prints the mean over the 10,000
test images and its standard error, in nats. The paper has 225 +- 2 for its MNIST network.
"""

import argparse
import math
import sys
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets import MNIST

from gan_lightning.build import load
from gan_lightning.data.images import RANGES
from gan_lightning.errors import UsageError
from gan_lightning.metrics.parzen import choose_sigma, log_likelihood


def pixels(data: Path, train: bool) -> Tensor:
    """MNIST's images as rows in [0, 1]."""
    return MNIST(str(data), train=train).data.flatten(1) / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds MNIST/raw")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        gan = load(options.checkpoint)
    except UsageError as error:
        sys.exit(f"Error: {error}")
    low, high = RANGES[gan.config["data"]["range"]]
    noise = torch.Generator().manual_seed(options.seed)
    samples = torch.cat([gan.sample(min(1000, options.samples - i), noise) for i in range(0, options.samples, 1000)])
    samples = (samples.flatten(1) - low) / (high - low)
    sigma = choose_sigma(pixels(options.data, train=True)[-10_000:-9_000], samples)
    nats = log_likelihood(pixels(options.data, train=False), samples, sigma)
    print(
        f"{nats.mean():.1f} +- {nats.std() / math.sqrt(len(nats)):.1f} nats, sigma {sigma:.3f}, {len(samples)} samples"
    )


if __name__ == "__main__":
    main()
