"""Rounds of images: their order, and fetching them from memory or through worker processes."""

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from gan_lightning.batch import Batch, Rounds, apply, concatenate
from gan_lightning.data.loader import RoundShape
from gan_lightning.errors import UsageError
from gan_lightning.pixels import from_bytes
from gan_lightning.streams import stream_seed


class RoundOrder:
    """The order of images: a new permutation of all images for each epoch, cut into whole rounds."""

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
        """Which of these images are flipped, each with probability 1/2, in the shape of ``indices``."""
        generator = torch.Generator().manual_seed(stream_seed("flips", self.seed, round_))
        return self.shape.shard(torch.rand(self.shape.samples, generator=generator) < 0.5)[0]


class MemoryFetcher:
    """Rounds by indexing a tensor of images and one of their classes, on the device where they are."""

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
        """A copy on the device, without a synchronization."""
        return cpu.pin_memory().to(self.samples.x.device, non_blocking=True) if self.samples.x.is_cuda else cpu


class WorkerFetcher:
    """Rounds prefetched by worker processes, one round per work item; y is None if there are no classes."""

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
        self._iterator: Iterator[Any] = iter(())

    def __call__(self, start: int, stop: int) -> Rounds:
        if start != self._next:
            self._iterator = read_ahead(self.images, self._rounds_from(self.order, start), self.workers)
        self._next = -1  # in case the next line fails
        rounds = concatenate([self._read(r) for r in range(start, stop)])
        self._next = stop
        return rounds

    @staticmethod
    def _rounds_from(order: RoundOrder, start: int) -> Iterator[list[int]]:
        # static: a reference cycle through the iterator would leave its workers to the garbage collector, for 5 s
        round_ = start
        while True:
            yield order.indices(round_).flatten().tolist()
            round_ += 1

    def _read(self, round_: int) -> Rounds:
        """Read the next round, which must be number ``round_``."""
        read = next(self._iterator)
        if isinstance(read, UsageError):
            self._iterator = iter(())  # ends the workers
            raise read
        images, classes = read
        images = from_bytes(images, self.value_range)
        if self.order.horizontal_flips:
            flips = self.order.flips(round_).flatten()
            images[flips] = images[flips].flip(-1)
        shape = self.order.shape
        dimensions = (1, shape.critic_steps, shape.accumulate_grad_batches, shape.batch_size)
        rounds = Rounds(images, classes if self.has_classes else None)
        return apply(lambda tensor: tensor.unflatten(0, dimensions), rounds)


class _Lists(Dataset[Any]):
    """(images, classes) for a list of indices; errors are returned, since DataLoader adds 100 lines to raised ones."""

    def __init__(self, images: Dataset[tuple[Tensor, int]]) -> None:
        self.images = images

    def __getitem__(self, indices: list[int]) -> Any:
        try:
            return default_collate([self.images[i] for i in indices])
        except UsageError as error:
            return UsageError(str(error))


def read_ahead(images: Dataset[tuple[Tensor, int]], order: Iterable[list[int]], workers: int) -> Iterator[Any]:
    """Yield (images, classes) for each list of indices, or the UsageError of an unreadable one, by worker processes.

    Raises:
        UsageError: a worker has died. Errors in the dataset's own code are raised unchanged.
    """
    loader = DataLoader(
        _Lists(images),
        batch_size=None,
        sampler=order,
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_begin_worker,
        generator=torch.Generator(),  # otherwise it draws from the global random state
    )
    with _handlers_kept():
        iterator = iter(loader)
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            return
        except (RuntimeError, EOFError, OSError) as error:
            if workers == 0 or not _is_death(error):
                raise
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            item = UsageError(
                f"A process that reads images has died ({reason}), perhaps because it ran out of memory: continue by "
                "resume=RUN_FOLDER, with fewer data.workers."
            )
            del iterator  # ends the other workers
            break
        yield item
    raise item  # outside of the handler, so that no traceback keeps the workers alive


def _as_it_is(item: Any) -> Any:
    return item


def _is_death(error: Exception) -> bool:
    """Whether a worker has died, rather than raised an error of the dataset's code."""
    return str(error).startswith("DataLoader worker (pid") or (
        isinstance(error, EOFError | OSError) and not str(error).startswith("Caught ")
    )


def _begin_worker(worker: int) -> None:
    """Reset the run's signal handlers in a worker: it stops when the run ends it, not on a Ctrl-C that both receive."""
    for signum in signal.valid_signals():
        if callable(signal.getsignal(signum)):
            signal.signal(signum, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for signum in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Keep this process's signal handlers, and keep workers started inside from inheriting them.

    torch's SIGCHLD handler could raise anywhere in the code; a dead worker is noticed anyway, when its round is due.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.getsignal(signal.SIGCHLD)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, former or signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
