"""Rounds of images: which of them stand where, from memory or through worker processes."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gan_lightning.batch import Batch, Rounds, apply, concatenate
from gan_lightning.data.loader import RoundShape
from gan_lightning.pixels import from_bytes
from gan_lightning.streams import stream_seed


class RoundOrder:
    """Which image stands where: a new permutation of all images for each epoch, cut into whole rounds."""

    def __init__(self, images: int, shape: RoundShape, seed: int, horizontal_flips: bool) -> None:
        self.images = images
        self.shape = shape
        self.seed = seed
        self.horizontal_flips = horizontal_flips
        self._epoch = -1
        self._permutation = torch.empty(0)

    @property
    def rounds_per_epoch(self) -> int:
        return self.images // self.shape.samples

    def indices(self, round_: int) -> Tensor:
        """This rank's images of one round, (critic_steps, accumulate, N)."""
        epoch, within = divmod(round_, self.rounds_per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(stream_seed("order", self.seed, epoch))
            self._epoch, self._permutation = epoch, torch.randperm(self.images, generator=generator)
        n = self.shape.samples
        return self.shape.shard(self._permutation[within * n : (within + 1) * n])[0]

    def flips(self, round_: int) -> Tensor:
        """Which of them are mirrored, of the same shape, each with probability 1/2."""
        generator = torch.Generator().manual_seed(stream_seed("flips", self.seed, round_))
        return self.shape.shard(torch.rand(self.shape.samples, generator=generator) < 0.5)[0]


class MemoryFetcher:
    """Rounds by indexing one tensor of images and one of their classes, on whatever device they are."""

    def __init__(self, samples: Batch, order: RoundOrder, value_range: tuple[float, float]) -> None:
        self.samples = samples
        self.order = order
        self.value_range = value_range

    def __call__(self, start: int, stop: int) -> Rounds:
        rounds = range(start, stop)
        index = self._to_device(torch.stack([self.order.indices(r) for r in rounds]))
        chosen = apply(lambda tensor: tensor.index_select(0, index.flatten()), self.samples)
        images = from_bytes(chosen.x, self.value_range)
        if self.order.horizontal_flips:
            flips = self._to_device(torch.stack([self.order.flips(r) for r in rounds]))
            images = torch.where(flips.flatten()[:, None, None, None], images.flip(-1), images)
        return apply(lambda tensor: tensor.unflatten(0, index.shape), Rounds(images, chosen.y))

    def _to_device(self, cpu: Tensor) -> Tensor:
        """A copy that a GPU's queue does not wait for."""
        return cpu.pin_memory().to(self.samples.x.device, non_blocking=True) if self.samples.x.is_cuda else cpu


class WorkerFetcher:
    """Rounds of (image, class) read ahead by worker processes, one round a work item; y is left out without classes."""

    def __init__(
        self,
        images: Dataset[tuple[Tensor, int]],
        order: RoundOrder,
        value_range: tuple[float, float],
        has_classes: bool,
        workers: int,
    ) -> None:
        self.images = images
        self.order = order
        self.value_range = value_range
        self.has_classes = has_classes
        self.workers = workers
        self._next = -1
        self._iterator: Iterator[tuple[Tensor, Tensor]] = iter(())

    def __call__(self, start: int, stop: int) -> Rounds:
        if start != self._next:
            loader = DataLoader(
                self.images,
                batch_sampler=self._rounds_from(self.order, start),
                num_workers=self.workers,
                generator=torch.Generator(),  # else it draws from the global random state
            )
            self._iterator = iter(loader)
        self._next = stop
        return concatenate([self._read(r) for r in range(start, stop)])

    @staticmethod
    def _rounds_from(order: RoundOrder, start: int) -> Iterator[list[int]]:
        # without self: a cycle through the iterator would leave its workers to the garbage collector, which takes 5 s
        round_ = start
        while True:
            yield order.indices(round_).flatten().tolist()
            round_ += 1

    def _read(self, round_: int) -> Rounds:
        """The next round, which is the one of that number."""
        images, classes = next(self._iterator)
        images = from_bytes(images, self.value_range)
        if self.order.horizontal_flips:
            flips = self.order.flips(round_).flatten()
            images[flips] = images[flips].flip(-1)
        shape = self.order.shape
        dimensions = (1, shape.critic_steps, shape.accumulate_grad_batches, shape.batch_size)
        rounds = Rounds(images, classes if self.has_classes else None)
        return apply(lambda tensor: tensor.unflatten(0, dimensions), rounds)
