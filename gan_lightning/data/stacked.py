"""Stacked MNIST: three random digits as the channels of one image, a thousand modes (Metz et al. 2017)."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchmetrics import Metric

from gan_lightning.batch import Batch, Rounds, apply
from gan_lightning.cache import cache_folder, digest_of
from gan_lightning.data.fetch import MemoryFetcher, RoundOrder
from gan_lightning.data.images import HeldOut
from gan_lightning.data.loader import RealData
from gan_lightning.data.torchvision import MNIST
from gan_lightning.errors import UsageError
from gan_lightning.metrics.stacked import DIGITS, StackedModes
from gan_lightning.pixels import from_bytes
from gan_lightning.streams import fixed_rows, stream_seed

BORDERS = {28: 0, 32: 2}  # zero pixels on each side, by size


class TripleOrder(RoundOrder):
    """The order of image triples: independent and uniform, with one random stream per round."""

    def indices(self, round_: int) -> Tensor:
        """This rank's images of one round, (critic_steps, accumulate, N, 3)."""
        generator = torch.Generator().manual_seed(stream_seed("triples", self.seed, round_))
        return self.shape.shard(torch.randint(self.images, (self.shape.samples, 3), generator=generator))[0]


class StackedMNIST(RealData):
    """An endless stream of three independent MNIST training digits as red, green and blue, (3, size, size).

    With ``size=32``, each digit has a border of two pixels. ``rounds_per_epoch`` only sets the interval between
    validations. There are a thousand modes, the triples of digits; samples have no labels, so networks cannot be
    conditional. Validation counts the triples in generated images by an MNIST classifier on each channel;
    ``features_accuracy`` is its accuracy on triples, the cube of its accuracy on digits.
    """

    value_range: tuple[float, float]
    evaluation_samples = 25_600  # Lin et al. 2018, section 4.2

    def __init__(
        self,
        root: str,
        batch_size: int,
        rounds_per_epoch: int,
        size: int = 28,
        range: Literal["signed", "unit"] = "signed",
        download: bool = True,
        seed: int = 0,
        rounds_per_batch: int = 1,
        validation_samples: int = 0,
        cache: str = "~/.cache/gan_lightning",
    ) -> None:
        super().__init__(batch_size, seed, rounds_per_batch)
        if size not in list(BORDERS):
            raise UsageError(f"data.size is {size}: choose 28, or 32 for digits with a border of two pixels.")
        self.digits = MNIST(root, batch_size, range=range, download=download, cache=cache)
        self.sample_shape = (3, size, size)
        self.value_range = self.digits.value_range
        self.validation_samples = validation_samples
        self.monitor = ("val/kl", "min") if validation_samples else None
        self._rounds_per_epoch = rounds_per_epoch

    @property
    def rounds_per_epoch(self) -> int:
        return self._rounds_per_epoch

    def prepare_data(self) -> None:
        self.digits.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Read the digits, and the held-out triples and the classifier if validation needs them."""
        if self.validation_samples:
            cache_folder(self.digits.cache)  # fails before anything is read
        self.digits.setup()
        self.fingerprint = self.digits.fingerprint
        if self.validation_samples and not hasattr(self, "_metric"):
            self._held_out = self._held_out_triples(self.validation_samples)
            self.held_out_digest = digest_of(self._held_out)
            self.digits.trainer = self.trainer
            features = self.digits._feature_network()
            assert features.accuracy is not None
            self.features_name, self.features_accuracy = features.name, features.accuracy**3
            self._metric = StackedModes(features, self.value_range, self._shares())
            # Lightning validates only if this method is defined
            self.val_dataloader = self._validation_batches  # type: ignore[method-assign]

    def fetcher(self) -> Callable[[int, int], Rounds]:
        assert self.trainer is not None
        images = self._bordered(self._training_digits()).to(self.trainer.strategy.root_device)
        order = TripleOrder(len(images), self.round_shape, self.seed, horizontal_flips=False)
        return MemoryFetcher(Batch(images), order, self.value_range)

    def metrics(self) -> dict[str, Metric]:
        return {"triples": self._metric} if self.validation_samples else {}

    def training_samples(self, n: int, seed: int, y: Tensor | None = None) -> Batch:
        triples = self._triples(self._training_digits(), n, stream_seed("floor", seed))
        return Batch(from_bytes(triples, self.value_range))

    def held_out_samples(self, n: int) -> Batch:
        """The first n held-out triples, in validation's order."""
        return Batch(from_bytes(self._held_out_triples(n), self.value_range))

    def _training_digits(self) -> Tensor:
        assert isinstance(self.digits.images, Tensor)
        return self.digits.images

    def _held_out_triples(self, n: int) -> Tensor:
        return self._triples(self.digits.read(train=False)[0], n, stream_seed("held-out"))

    def _triples(self, digits: Tensor, n: int, seed: int) -> Tensor:
        """The first n triples of an endless sequence, uint8 (n, *sample_shape)."""

        def draw(rows: int, generator: torch.Generator | None) -> Tensor:
            return torch.randint(len(digits), (rows, 3), generator=generator)

        return self._bordered(digits)[fixed_rows(draw, seed, 0, n)]

    def _bordered(self, digits: Tensor) -> Tensor:
        """(n, 1, 28, 28) as (n, size, size)."""
        border = BORDERS[self.sample_shape[1]]
        return pad(digits[:, 0], [border] * 4)

    def _shares(self) -> Tensor:
        """The share of each digit in the training images, (10,)."""
        assert self.digits.labels is not None
        return torch.bincount(self.digits.labels, minlength=DIGITS) / len(self.digits.labels)

    def _validation_batches(self) -> HeldOut:
        shape = self.round_shape
        held_out = apply(lambda tensor: tensor[shape.rank :: shape.world_size], Batch(self._held_out))
        return HeldOut(held_out, self.value_range)
