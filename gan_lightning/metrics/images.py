"""Metrics of generated images from the features of a frozen network."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance
from torchmetrics.utilities import dim_zero_cat

from gan_lightning.batch import Batch
from gan_lightning.metrics.features import Features, Labeled
from gan_lightning.metrics.stored import Stored
from gan_lightning.pixels import to_bytes
from gan_lightning.streams import own_stream

MANIFOLD_NEIGHBOR, DENSITY_NEIGHBOR = 3, 5  # the k of Kynkaanniemi et al. 2019 and of Naeem et al. 2020
KID_SUBSET_SIZE = 1000
SUBSETS_SEED = 2014
BLOCK = 500  # rows of a distance matrix computed at once


def frechet_distance(real: Tensor, generated: Tensor) -> Tensor:
    """|m_r - m_g|^2 + tr(C_r + C_g - 2 (C_r C_g)^{1/2}) from feature means and covariances (Heusel et al. 2017)."""
    metric = FrechetInceptionDistance(_given(real))
    metric.update(real, real=True)
    metric.update(generated, real=False)
    return metric.compute()


def kernel_distance(real: Tensor, generated: Tensor) -> Tensor:
    """The unbiased squared MMD with kernel (x.y/d + 1)^3, a mean over subsets of 1,000 (Binkowski et al. 2018)."""
    size = min(KID_SUBSET_SIZE, len(real), len(generated))
    with _quiet(), own_stream(SUBSETS_SEED):
        metric = KernelInceptionDistance(_given(real), subset_size=size)
        metric.update(real, real=True)
        metric.update(generated, real=False)
        return metric.compute()[0]


def inception_score(logits: Tensor) -> Tensor:
    """exp E_x KL(p(y|x) | p(y)), a mean over ten parts of the logits (N, classes) (Salimans et al. 2016)."""
    with _quiet(), own_stream(SUBSETS_SEED):
        metric = InceptionScore(_given(logits), splits=min(10, len(logits) // 2))
        metric.update(logits)
        return metric.compute()[0]


def neighborhoods(real: Tensor, generated: Tensor) -> dict[str, Tensor]:
    """Precision, recall, density and coverage of features (N, d) and (M, d).

    A ball B_k(x) extends from a sample x to its k-th nearest neighbor in the same set. Precision is the share of
    generated samples inside any B_3 of a real sample, recall the share of real samples inside any B_3 of a generated
    sample (Kynkaanniemi et al. 2019, equations 1 and 2). Density is the total number of generated samples inside the
    real B_5, divided by 5 M; coverage is the share of real B_5 that contain a generated sample (Naeem et al. 2020,
    section 3).
    """
    real_manifold, real_density = neighbor_distances(real, MANIFOLD_NEIGHBOR, DENSITY_NEIGHBOR)
    (generated_manifold,) = neighbor_distances(generated, MANIFOLD_NEIGHBOR)
    recalled, covered = real.new_zeros(2, len(real), dtype=torch.bool)
    precise = inside = 0
    for block, radii in zip(generated.split(BLOCK), generated_manifold.split(BLOCK), strict=True):
        distances = _distances(block, real)
        precise += int((distances <= real_manifold).any(1).sum())
        recalled |= (distances <= radii[:, None]).any(0)
        inside += int((distances <= real_density).sum())
        covered |= (distances <= real_density).any(0)
    return {
        "precision": torch.tensor(precise / len(generated)),
        "recall": recalled.double().mean(),
        "density": torch.tensor(inside / (DENSITY_NEIGHBOR * len(generated))),
        "coverage": covered.double().mean(),
    }


def neighbor_distances(points: Tensor, *neighbors: int) -> list[Tensor]:
    """For each k, the distances (N,) of points (N, d) to their k-th nearest neighbor."""
    # the nearest is the point itself
    nearest = [_distances(block, points).topk(max(neighbors) + 1, largest=False) for block in points.split(BLOCK)]
    distances = torch.cat([part.values for part in nearest])
    return [distances[:, k] for k in neighbors]


def class_divergence(generated: Tensor, real: Tensor) -> Tensor:
    """KL(q | p) in nats for the shares q and p of class counts (K,), after adding half a real count to each class.

    Without it, one image of a class missing in the data would make the divergence infinite.
    """
    q = generated / generated.sum()
    p = (real + 0.5) / (real + 0.5).sum()
    return torch.special.xlogy(q, q / p).sum()


def intra_fid(real: Labeled, generated: Labeled) -> dict[int, Tensor]:
    """The Frechet distance within each class of features and labels (Miyato & Koyama 2018, section 4).

    Classes with fewer than two real or generated samples are omitted.
    """
    (real_features, real_labels), (features, labels) = real, generated
    pairs = {int(k): (real_features[real_labels == k], features[labels == k]) for k in real_labels.unique()}
    return {k: frechet_distance(*pair) for k, pair in pairs.items() if min(map(len, pair)) > 1}


class ImageMetrics(Stored):
    """All metrics of generated against real images from one network's features, computed once per batch.

    ``classes`` is the number of ``chosen`` classes, by default all, among the generated images. If these have labels,
    the requested classes, ``class_accuracy`` is the share that the network assigns to them, and ``intra_fid`` is the
    mean distance within a class, reported with the maximum, and with each class's distance if ``class_names`` are
    given.
    """

    generated: list[Tensor]
    labels: list[Tensor]
    real_labels: list[Tensor]
    real: list[Tensor]
    generated_logits: list[Tensor]
    real_logits: list[Tensor]

    def __init__(
        self,
        features: Features,
        value_range: tuple[float, float] = (-1.0, 1.0),
        chosen: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.features = features
        self.value_range = value_range
        self.chosen = slice(None) if chosen is None else list(chosen)
        self.class_names: Sequence[str] = ()
        self.store("generated", "real", "generated_logits", "real_logits", "labels", "real_labels")

    def update(self, generated: Batch, real: Batch) -> None:
        features, logits = self.features(to_bytes(generated.x, self.value_range))
        self.generated.append(features)
        self.generated_logits.append(logits)
        features, logits = self.features(to_bytes(real.x, self.value_range))
        self.real.append(features)
        self.real_logits.append(logits)
        if generated.y is not None and real.y is not None and real.y.dim() == 1:  # labels, not paired images
            self.labels.append(generated.y)
            self.real_labels.append(real.y)

    def compute(self) -> dict[str, Tensor]:
        states = (self.real, self.generated, self.real_logits, self.generated_logits)
        # the ranks exchange features on their devices, but not every device has float64
        real, generated, real_logits, generated_logits = (dim_zero_cat(state).cpu().double() for state in states)
        values = {
            "fid": frechet_distance(real, generated),
            "kid": kernel_distance(real, generated),
            "inception_score": inception_score(generated_logits),
            **neighborhoods(real, generated),
        }
        if self.features.accuracy is not None:  # the network classifies the data's classes
            classes = real_logits.shape[1]
            counts = torch.bincount(generated_logits.argmax(1), minlength=classes).double()
            values["classes"] = (counts > 0)[self.chosen].sum()
            values["class_kl"] = class_divergence(counts, torch.bincount(real_logits.argmax(1), minlength=classes))
        if self.labels:
            labels, real_labels = (dim_zero_cat(state).cpu() for state in (self.labels, self.real_labels))
            values |= self._by_class((real, real_labels), (generated, labels))
            if self.features.accuracy is not None:
                asked = torch.arange(classes)[self.chosen][labels]
                values["class_accuracy"] = (generated_logits.argmax(1) == asked).double().mean()
        return {name: value.float() for name, value in values.items()}

    def _by_class(self, real: Labeled, generated: Labeled) -> dict[str, Tensor]:
        distances = intra_fid(real, generated)
        values = torch.stack(list(distances.values())) if distances else torch.tensor([torch.nan])
        every = {f"intra_fid/{self.class_names[k]}": value for k, value in distances.items() if self.class_names}
        return {"intra_fid": values.mean(), "intra_fid_worst": values.max(), **every}


def _given(features: Tensor) -> nn.Module:
    """An identity network for torchmetrics, since the features are computed already."""
    network = nn.Identity()
    network.num_features = features.shape[1]  # type: ignore[assignment]
    return network


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # by differences: rounding in a matrix product would put a point on a ball's boundary outside of the ball
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress torchmetrics' warning about memory for features, and torch's about the deviation of a single part."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*will save all extracted features in buffer")
        warnings.filterwarnings("ignore", r"std\(\): degrees of freedom")
        yield
