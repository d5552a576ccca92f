"""The gradients of an update as a CUDA graph, which launches hundreds of small kernels with one call."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from lightning.pytorch.plugins.precision import DoublePrecision, MixedPrecision, Precision
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn

from gan_lightning.augment import Augment
from gan_lightning.batch import Batch
from gan_lightning.errors import UsageError
from gan_lightning.player import Compute, Move, lightning_adds_nothing
from gan_lightning.schedules import Ramp
from gan_lightning.streams import Tape, taped

Run = Callable[[], None]
EAGER = 3  # updates before the capture, in which libraries choose algorithms; the last one records the random draws
KINDS = 16  # more kinds of updates than these run eagerly, since each graph has its own memory


def captured_on_gpu(compute: Run) -> Run:
    """Capture a computation without running it; returns a function that runs it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may copy data meanwhile
        compute()
    return graph.replay


class Graphs:
    """Runs updates of each kind, the first ones eagerly, all others by replaying a captured one.

    Updates of one kind may differ only in the values of the real batches and of the numbers drawn by
    ``gan_lightning.streams.joint`` or by torch's generator of the GPU.
    """

    def __init__(self, capture: Callable[[Run], Run] = captured_on_gpu) -> None:
        self.capture = capture
        self._runs: Counter[Hashable] = Counter()
        self._tapes: dict[Hashable, list[Tape]] = {}
        self._captured: defaultdict[Hashable, list[_Captured]] = defaultdict(list)

    def run(
        self,
        kind: Hashable,
        moves: Sequence[Move],
        reals: Sequence[Batch],
        finish: Callable[[Move, list[dict[str, Tensor]]], None],
    ) -> None:
        """Compute the gradients of moves of this kind on real batches, and finish each with its terms before the next.

        A move may use tensors that the move before it has made.
        """
        shapes = tuple((x.shape, None if y is None else y.shape) for x, y, _ in reals)
        weights = [(weight.data_ptr(), weight.requires_grad) for move in moves for weight in move.player.weights]
        key = kind, shapes, tuple(weights)
        self._runs[key] += 1
        if self._runs[key] == EAGER and len(self._tapes) < KINDS:
            self._tapes[key] = [Tape() for _ in moves]
        for i, move in enumerate(moves):
            finish(move, self._terms(key, i, move, reals))

    def _terms(self, key: Hashable, i: int, move: Move, reals: Sequence[Batch]) -> list[dict[str, Tensor]]:
        """Compute the gradients of the i-th of the moves that share this key; returns the terms of its loss."""
        if key not in self._tapes:
            return move.compute(reals)
        tape, captured = self._tapes[key][i], self._captured[key]
        if self._runs[key] == EAGER:
            with taped(tape):
                return move.compute(reals)
        if i == len(captured):
            captured.append(_Captured(move.compute, reals, move.player.weights, tape, self.capture))
        return captured[i].run(reals)


class _Captured:
    """A captured computation with its static buffers."""

    def __init__(
        self,
        compute: Compute,
        reals: Sequence[Batch],
        weights: Sequence[nn.Parameter],
        tape: Tape,
        capture: Callable[[Run], Run],
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
        for static, real in zip(self.reals, reals, strict=True):
            static.x.copy_(real.x)
            if static.y is not None and real.y is not None:
                static.y.copy_(real.y)
        self.tape.fill()
        self.replay()
        for weight, gradient in self.gradients:
            weight.grad = gradient
        values = iter(self.values.clone().unbind())  # the next replay overwrites the original
        return [{name: next(values) for name in part} for part in self.names]


def check_graphs(gan: Any, trainer: Any) -> None:
    """Check that a GAN's updates can be replayed.

    Raises:
        UsageError: there is no GPU, no update would be replayed, or something changes between updates that a graph
            would leave as it was.
    """
    device = trainer.strategy.root_device.type
    if device != "cuda":
        raise UsageError(f"trainer.cuda_graphs=true needs a GPU, but this run trains on {device}: leave it out.")
    game = gan.game
    parts = [game, game.loss, *game.regularizers.values(), *game.generator_regularizers.values()]
    parts += [] if game.augment is None else [game.augment]
    frozen = [type(part).__name__ for part in parts if not is_replayable(part)]
    obstacles = {
        "several devices": trainer.world_size > 1,
        "trainer.log_every_n_steps=1, since logged updates are not replayed": trainer.log_every_n_steps == 1,
        "trainer.compile=true": game.is_compiled,
        "trainer.detect_anomaly=true": trainer._detect_anomaly,
        "model.reuse_fakes=true, unless model.order=simultaneous": gan.reuse_fakes and gan.order != "simultaneous",
        "a Ramp in the game": any(isinstance(part, Ramp) for part in game.modules()),
        "augment=ada": game.augment is not None and type(game.augment).observe is not Augment.observe,
        f"{', '.join(frozen)}, whose class does not say replayable = True": bool(frozen),
        **_of_lightning(gan, trainer),
    }
    for obstacle in (name for name, is_there in obstacles.items() if is_there):
        raise UsageError(f"trainer.cuda_graphs=true cannot be combined with {obstacle}: leave out one of the two.")


def _of_lightning(gan: Any, trainer: Any) -> dict[str, bool]:
    """What Lightning would do around each backward pass; the last one covers hooks."""
    strategy, precision, profiler = type(trainer.strategy), type(trainer.precision_plugin), type(trainer.profiler)
    scales = getattr(trainer.precision_plugin, "scaler", None) is not None
    return {
        strategy.__name__: strategy is not SingleDeviceStrategy,
        "trainer.precision=16-mixed": scales,
        precision.__name__: precision not in (Precision, MixedPrecision, DoublePrecision),
        profiler.__name__: profiler.__name__ != "PassThroughProfiler",
        "a callback or module with hooks around backward passes": not lightning_adds_nothing(gan, trainer),
    }


def is_replayable(part: nn.Module) -> bool:
    """Whether each call of a part does the same except for its tensors: by its class, or as a part of the package."""
    if type(part).__module__.startswith("gan_lightning."):
        return getattr(part, "replayable", True)
    return vars(type(part)).get("replayable", False)
