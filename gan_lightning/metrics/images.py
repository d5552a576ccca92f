"""Scores of generated images by the features of a frozen network."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance
from torchmetrics.utilities import dim_zero_cat

from gan_lightning.batch import Batch
from gan_lightning.metrics.features import Features, Labelled
from gan_lightning.pixels import to_bytes
from gan_lightning.streams import own_stream

MANIFOLD_NEIGHBOUR, DENSITY_NEIGHBOUR = 3, 5  # the k of Kynkaanniemi et al. 2019 and of Naeem et al. 2020
KID_SUBSET_SIZE = 1000
SUBSETS_SEED = 2014
BLOCK = 500  # rows of a distance matrix held at once


def frechet_distance(real: Tensor, generated: Tensor) -> Tensor:
    """|m_r - m_g|^2 + tr(C_r + C_g - 2 (C_r C_g)^{1/2}) of the features' means and covariances (Heusel et al. 2017)."""
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


def neighbourhoods(real: Tensor, generated: Tensor) -> dict[str, Tensor]:
    """Precision, recall, density and coverage of features (N, d) and (M, d).

    A ball B_k(x) reaches from a sample x to its k-th nearest neighbour of the same set. Precision is the share of
    generated samples in any B_3 of a real one, recall the share of real samples in any B_3 of a generated one
    (Kynkaanniemi et al. 2019, equations 1 and 2). Density is the number of generated samples in the real B_5, summed
    and divided by 5 M, coverage the share of the real B_5 with a generated sample (Naeem et al. 2020, section 3).
    """
    real_manifold, real_density = neighbour_distances(real, MANIFOLD_NEIGHBOUR, DENSITY_NEIGHBOUR)
    (generated_manifold,) = neighbour_distances(generated, MANIFOLD_NEIGHBOUR)
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
        "density": torch.tensor(inside / (DENSITY_NEIGHBOUR * len(generated))),
        "coverage": covered.double().mean(),
    }


def neighbour_distances(points: Tensor, *neighbours: int) -> list[Tensor]:
    """For each k, the distances (N,) of points (N, d) to their k-th nearest other."""
    # the nearest of all is the point itself
    nearest = [_distances(block, points).topk(max(neighbours) + 1, largest=False) for block in points.split(BLOCK)]
    distances = torch.cat([part.values for part in nearest])
    return [distances[:, k] for k in neighbours]


def class_divergence(generated: Tensor, real: Tensor) -> Tensor:
    """KL(q | p) in nats of the shares q and p of class counts (K,), with half a real count added to each class.

    Without the half, one image of a class that the data lacks would make it infinite.
    """
    q = generated / generated.sum()
    p = (real + 0.5) / (real + 0.5).sum()
    return torch.special.xlogy(q, q / p).sum()


def intra_fid(real: Labelled, generated: Labelled) -> dict[int, Tensor]:
    """The Frechet distance within each class of features and labels (Miyato & Koyama 2018, section 4).

    Of a class with fewer than two samples on either side there is none.
    """
    (real_features, real_labels), (features, labels) = real, generated
    pairs = {int(k): (real_features[real_labels == k], features[labels == k]) for k in real_labels.unique()}
    return {k: frechet_distance(*pair) for k, pair in pairs.items() if min(map(len, pair)) > 1}


class ImageMetrics(Metric):
    """All scores of generated against real images by one network's features, which are computed once a batch.

    ``classes`` counts which of the ``chosen`` classes, of all by default, are among the generated images. Where these
    carry labels, the classes that were asked for, ``class_accuracy`` is the share of those that the network puts into
    them, and ``intra_fid`` the mean of the distances within each class, beside the largest; and each class's own, where
    ``class_names`` are given.
    """

    full_state_update = False
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
        for name in ("generated", "real", "generated_logits", "real_logits", "labels", "real_labels"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, generated: Batch, real: Batch) -> None:
        features, logits = self.features(to_bytes(generated.x, self.value_range))
        self.generated.append(features)
        self.generated_logits.append(logits)
        features, logits = self.features(to_bytes(real.x, self.value_range))
        self.real.append(features)
        self.real_logits.append(logits)
        if generated.y is not None and real.y is not None and real.y.dim() == 1:  # labels, and no paired images
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
            **neighbourhoods(real, generated),
        }
        if self.features.accuracy is not None:  # the network knows the data's classes
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

    def _by_class(self, real: Labelled, generated: Labelled) -> dict[str, Tensor]:
        distances = intra_fid(real, generated)
        values = torch.stack(list(distances.values())) if distances else torch.tensor([torch.nan])
        every = {f"intra_fid/{self.class_names[k]}": value for k, value in distances.items() if self.class_names}
        return {"intra_fid": values.mean(), "intra_fid_worst": values.max(), **every}


def _given(features: Tensor) -> nn.Module:
    """What torchmetrics takes for a network where the features are there already."""
    network = nn.Identity()
    network.num_features = features.shape[1]  # type: ignore[assignment]
    return network


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # by differences: a matrix product's rounding would put a ball's own border outside of it
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torchmetrics' advice that features take memory, and torch's that one part has no deviation."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*will save all extracted features in buffer")
        warnings.filterwarnings("ignore", r"std\(\): degrees of freedom")
        yield
