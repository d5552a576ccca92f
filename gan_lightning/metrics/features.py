"""Frozen feature networks for image metrics: a small classifier of the data's own classes, or Inception."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy

from gan_lightning.cache import cached
from gan_lightning.errors import UsageError
from gan_lightning.pixels import in_color
from gan_lightning.streams import own_stream

UPDATES, BATCH_SIZE, LEARNING_RATE, SEED = 1500, 128, 1e-2, 0
ARCHITECTURE = "cnn"  # part of the cache name of the weights: change it together with Classifier
HIDDEN = 64
LARGEST_MAP = 7  # pixels, the longest that the shorter side of the last map may be

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"

Labeled = tuple[Tensor, Tensor]  # uint8 images (n, channels, height, width) and their classes (n,)


@dataclass(frozen=True)
class Features:
    """A frozen network and its name, which scores carry; scores under different names are not comparable.

    The network maps uint8 images (N, channels, height, width) to features (N, d) and logits (N, classes). It is not a
    submodule of anything, so checkpoints, optimizers and train() do not reach it.
    """

    name: str
    network: nn.Module
    accuracy: float | None = None  # on held-out images, if the classes are the data's own

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, d) and logits (N, classes) in float32, on the images' device."""
        network = self.network.to(images.device).eval()
        with torch.autocast(images.device.type, enabled=False):
            features, logits = network(images)
        return features, logits


class Classifier(nn.Module):
    """A convolutional classifier: uint8 (N, channels, height, width) to features (N, d) and logits (N, classes).

    Convolutions of 16, 32, ... channels, each with pooling, until the shorter side has at most 7 pixels, then one
    hidden layer. The features are averages of the last convolution over quarters of the image, d = 4 x channels.
    """

    def __init__(self, sample_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        channels, height, breadth = sample_shape
        layers: list[nn.Module] = []
        width = 16
        while min(height, breadth) > LARGEST_MAP or not layers:
            convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            layers += [convolution, nn.MaxPool2d(2), nn.BatchNorm2d(width), nn.ReLU()]
            channels, width, height, breadth = width, min(2 * width, 128), height // 2, breadth // 2
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * height * breadth, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, classes)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.body(images.float() / 127.5 - 1)
        # not the hidden layer: in it, precision cannot tell noise and blurred digits from real images
        return adaptive_avg_pool2d(maps, 2).flatten(1), self.head(maps)


def own_features(
    kind: str, train: Labeled, held_out: Labeled, classes: int, cache: Path, device: torch.device
) -> Features:
    """A classifier of the training images' classes, trained on first use and stored in the folder ``cache``.

    The name includes a digest of the weights, so it differs for other data, another seed or another machine's rounding.

    Raises:
        UsageError: there are fewer than two classes.
    """
    if classes < 2:
        raise UsageError(
            f"data.features=own trains a classifier of the data's classes, but there are {classes}: give a data.root "
            "with a folder for each class, or data.features=inception."
        )
    digest = _digest([*train, *held_out], (ARCHITECTURE, UPDATES, BATCH_SIZE, LEARNING_RATE, SEED))
    path = cache / f"{kind}-{ARCHITECTURE}-{digest}.pt"

    def make() -> dict[str, Any]:
        network = train_classifier(*train, classes, SEED, device)
        share = accuracy(network, *held_out, device)
        print(f"Feature network for image metrics: accuracy {share:.2%} on held-out images, saved as {path}")
        weights = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
        return {"weights": weights, "accuracy": share, "seed": SEED, "data": digest}

    saved = cached(path, make)
    network = Classifier(tuple(train[0].shape[1:]), classes).requires_grad_(False).eval()
    network.load_state_dict(saved["weights"])
    name = f"{kind}-{ARCHITECTURE}-{_digest(list(saved['weights'].values()))[:8]}"
    return Features(name, network, saved["accuracy"])


def train_classifier(images: Tensor, labels: Tensor, classes: int, seed: int, device: torch.device) -> Classifier:
    """Train a classifier by 1,500 updates of Adam on batches of 128; all randomness comes from the seed."""
    from rich.progress import track

    with own_stream(seed):
        network = Classifier(tuple(images.shape[1:]), classes).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=UPDATES)
    stream = torch.Generator().manual_seed(seed)
    epochs = -(-UPDATES * BATCH_SIZE // len(images))
    order = torch.cat([torch.randperm(len(images), generator=stream) for _ in range(epochs)])
    batches = order[: UPDATES * BATCH_SIZE].split(BATCH_SIZE)
    with torch.backends.cudnn.flags(deterministic=True, benchmark=False):
        for batch in track(batches, description="Training the feature network, once for this data"):
            _, logits = network(images[batch].to(device))
            optimizer.zero_grad()
            cross_entropy(logits, labels[batch].to(device)).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor, device: torch.device) -> float:
    """The accuracy of the network on images and their labels."""
    parts = [network(batch.to(device))[1].argmax(1).cpu() for batch in images.split(1000)]
    return (torch.cat(parts) == labels).double().mean().item()


def inception_features(weights: str | None) -> Features:
    """Inception v3 as in FID (Heusel et al. 2017): 2,048 features and 1,008 logits of images scaled to 299 x 299.

    ``weights`` is a file; with None, it is downloaded once into torch.hub's folder.

    Raises:
        UsageError: torch-fidelity or the weights are missing.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ModuleNotFoundError as error:
        raise UsageError(
            "data.features=inception needs the package torch-fidelity: pip install 'gan-lightning[inception]'."
        ) from error
    path = _downloaded() if weights is None else Path(weights).expanduser()
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        torch.load(path, map_location="cpu", weights_only=True)  # torch-fidelity would unpickle arbitrary code
        network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(path))
    except Exception as error:  # torch.load raises many types, which all mean the same here
        raise UsageError(
            f"data.inception_weights={path} does not hold Inception's weights: give {INCEPTION_FILE} from "
            f"{INCEPTION_URL}."
        ) from error
    return Features(f"inception-{digest[:8]}", _InColor(network))


class _InColor(nn.Module):
    """Wraps a network for color images: repeats grayscale to three channels, and otherwise uses the first three."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Sequence[Tensor]:
        return self.network(in_color(images).expand(-1, 3, -1, -1))


def _downloaded() -> Path:
    """Inception's weights in torch.hub's folder, downloaded if missing."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(INCEPTION_URL, str(path), hash_prefix="6726825d")
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"Inception's weights are not in {path.parent} and were not downloaded ({error}): download {INCEPTION_URL} "
            "and give the file by data.inception_weights=FILE."
        ) from error
    return path


def _digest(tensors: Sequence[Tensor], *key: object) -> str:
    """A digest of the tensors' shapes and values, 16 hexadecimal digits."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8)
    for tensor in tensors:
        digest.update(repr(tuple(tensor.shape)).encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
