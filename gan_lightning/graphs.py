"""The gradients of an update as a CUDA graph: hundreds of small kernels, captured once and launched at once."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from lightning.pytorch.profilers import PassThroughProfiler
from torch import Tensor, nn

from gan_lightning.batch import Batch
from gan_lightning.errors import UsageError
from gan_lightning.player import lightning_adds_nothing
from gan_lightning.schedules import Ramp
from gan_lightning.streams import Tape, taped

Gradients = Callable[[Sequence[Batch]], list[dict[str, Tensor]]]  # sets .grad, and returns the terms of the loss
Replay = Callable[[], None]
EAGER = 3  # updates before the capture, in which libraries choose algorithms and allocate memory; the last fills a tape


def captured_on_gpu(compute: Callable[[], None]) -> Replay:
    """Capture a computation without running it; returns a function that runs it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may copy data meanwhile
        compute()
    return graph.replay


class Graphs:
    """Runs a player's updates of each kind, the first ones eagerly, all others by replaying a captured one.

    Updates of one kind may differ only in the values of the real batches and of the numbers drawn by
    ``gan_lightning.streams.joint``, or by torch's generator of the GPU.
    """

    def __init__(self, capture: Callable[[Callable[[], None]], Replay] = captured_on_gpu) -> None:
        self.capture = capture
        self._runs: Counter[Hashable] = Counter()
        self._tapes: defaultdict[Hashable, Tape] = defaultdict(Tape)
        self._known: dict[Hashable, _Captured] = {}

    def run(
        self, kind: Hashable, compute: Gradients, reals: Sequence[Batch], weights: Sequence[nn.Parameter]
    ) -> list[dict[str, Tensor]]:
        """Compute the gradients of an update of this kind on real batches; returns the terms of each."""
        kind = kind, tuple((x.shape, None if y is None else y.shape) for x, y, *_ in reals)
        self._runs[kind] += 1
        if self._runs[kind] < EAGER:
            return compute(reals)
        if self._runs[kind] == EAGER:
            with taped(self._tapes[kind]):
                return compute(reals)
        if kind not in self._known:
            self._known[kind] = _Captured(compute, reals, weights, self._tapes[kind], self.capture)
        return self._known[kind].run(reals)


class _Captured:
    """A captured computation, with the memory that it reads and writes."""

    def __init__(
        self,
        compute: Gradients,
        reals: Sequence[Batch],
        weights: Sequence[nn.Parameter],
        tape: Tape,
        capture: Callable[[Callable[[], None]], Replay],
    ) -> None:
        self.reals = [Batch(x.clone(), None if y is None else y.clone()) for x, y, _ in reals]
        self.tape = tape
        self.names: list[list[str]] = []
        self.values = torch.empty(0)

        def computed() -> None:
            with taped(self.tape):
                terms = compute(self.reals)
            self.names = [list(part) for part in terms]
            self.values = torch.stack([value for part in terms for value in part.values()])

        self.replay = capture(computed)
        self.gradients = [(weight, weight.grad) for weight in weights]

    def run(self, reals: Sequence[Batch]) -> list[dict[str, Tensor]]:
        for place, real in zip(self.reals, reals, strict=True):
            place.x.copy_(real.x)
            if place.y is not None and real.y is not None:
                place.y.copy_(real.y)
        self.tape.fill()
        self.replay()
        for weight, gradient in self.gradients:
            weight.grad = gradient
        values = iter(self.values.clone().unbind())  # the next replay overwrites the original
        return [{name: next(values) for name in part} for part in self.names]


def check_graphs(gan: Any, trainer: Any) -> None:
    """Check that a GAN's updates can be replayed.

    Raises:
        UsageError: there is no GPU, or something changes between updates that a graph would leave as it was.
    """
    game = gan.game
    penalties = [*game.regularizers.values(), *game.generator_regularizers.values()]
    obstacles = {
        f"a run on {trainer.strategy.root_device.type}": trainer.strategy.root_device.type != "cuda",
        "several devices": trainer.world_size > 1,
        "trainer.precision=16-mixed": getattr(trainer.precision_plugin, "scaler", None) is not None,
        "a profiler": type(trainer.profiler) is not PassThroughProfiler,
        "trainer.compile=true": game.is_compiled,
        f"model.order={gan.order}": gan.order == "simultaneous",
        "model.reuse_fakes=true": gan.reuse_fakes,
        "a scheduled value of the game": any(isinstance(part, Ramp) for part in game.modules()),
        "a penalty that repeats a pass": any(part.passes_again for part in penalties),
        "an augmentation that adjusts p": game.augment is not None and game.augment.follows_logits,
        "a callback or module that changes backward passes": not lightning_adds_nothing(gan, trainer),
    }
    for obstacle in (name for name, is_there in obstacles.items() if is_there):
        raise UsageError(f"trainer.cuda_graphs=true cannot be combined with {obstacle}: leave out one of the two.")
