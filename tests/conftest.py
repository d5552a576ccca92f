"""What all tests share: one thread, no GPU, no display, the configuration, and MNIST if a folder of it is given."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from composing import composed
from omegaconf import DictConfig

# the tests run side by side, and so do the processes that they start
os.environ.setdefault("OMP_NUM_THREADS", "1")
# scripts/gpu.py tests the GPU, whose arithmetic is not that of the CPU to the last bit
os.environ["CUDA_VISIBLE_DEVICES"] = ""

ROOT = Path(__file__).resolve().parent.parent


def pytest_collectstart() -> None:
    torch.manual_seed(0)  # modules may make networks when they are imported


@pytest.fixture(autouse=True)
def _one_seeded_thread() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the tests' networks are small: a second thread costs more than it gains


@pytest.fixture
def configure() -> Callable[..., DictConfig]:
    """Compose conf/ with overrides, as the command line does."""
    return composed


@pytest.fixture
def mnist_root() -> Path:
    """A folder with MNIST/raw, from the environment variable GAN_LIGHTNING_DATA."""
    root = os.environ.get("GAN_LIGHTNING_DATA")
    if root is None:
        pytest.skip("GAN_LIGHTNING_DATA is not set to a folder that holds MNIST/raw")
    return Path(root)
