"""Every random number of a run as a function of its seed, the step, the rank, and the draws before it in the step.

So a penalty that draws points changes the latents after it; settings with and without it do not share them.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed

BLOCK = 1000  # rows per block of an endless draw
WORD = 2**32
ODD = 0x9E3779B1  # times an odd number, modulo 2^32, no two steps coincide

Draw = Callable[[int, torch.Generator | None], Tensor]


def stream_seed(*key: object) -> int:
    """A 32-bit seed for the random stream with this name, such as ("order", seed, epoch)."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=4).digest())


@contextmanager
def own_stream(seed: int) -> Iterator[None]:
    """Seed the CPU's random numbers inside the context, and restore the global random state on exit."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


class Streams:
    """The random numbers of a run's rounds, without state to save.

    Each round starts two streams: torch's global one, different in each process (dropout), and one shared by all
    processes, from which ``joint`` draws numbers for individual samples (latents, a penalty's interpolation).
    """

    def __init__(self, seed: int, rank: int, world_size: int, device: torch.device) -> None:
        self.rank, self.world_size, self.device = rank, world_size, device
        self.generator = torch.Generator()
        self._joint, self._own = stream_seed(seed, "round"), stream_seed(seed, "round", "rank", rank)

    def begin(self, step: int) -> None:
        """Start the streams of round ``step``."""
        offset = step * ODD % WORD
        self.generator.manual_seed(self._joint ^ offset)
        torch.default_generator.manual_seed(self._own ^ offset)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(self._own ^ offset)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Make ``joint`` draw from these streams inside the context."""
        global _running
        former, _running = _running, self
        try:
            yield
        finally:
            _running = former


_running: Streams | None = None


class Mark:
    """The state of this process's random streams, including those of ``device``, to repeat the following draws."""

    def __init__(self, device: torch.device) -> None:
        self.generators = [torch.default_generator, *([_running.generator] if _running else [])]
        if device.type == "cuda":
            self.generators.append(torch.cuda.default_generators[device.index or 0])
        self.states = self._now()

    @contextmanager
    def again(self) -> Iterator[None]:
        """Repeat the draws after the mark inside the context, and restore the streams on exit."""
        now = self._now()
        self._set(self.states)
        try:
            yield
        finally:
            self._set(now)

    def _now(self) -> list[Tensor]:
        return [generator.get_state() for generator in self.generators]

    def _set(self, states: list[Tensor]) -> None:
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(state)


def joint(draw: Draw, n: int, device: torch.device) -> Tensor:
    """This process's n rows, on the device, of one draw for all processes, so that k devices see the same as one.

    Numbers are drawn on the CPU, so they do not depend on the device; outside a run, from torch's global stream.
    """
    return to_device(_drawn(draw, n), device) if _tape is None else _tape.read(draw, n, device)


def _drawn(draw: Draw, n: int) -> Tensor:
    if _running is None:
        return draw(n, None)
    if _running.world_size == 1:
        return draw(n, _running.generator)
    return draw(n * _running.world_size, _running.generator).narrow(0, _running.rank * n, n)


class Tape:
    """The random draws of an update, in order, each with a static buffer on the device that a CUDA graph reads."""

    def __init__(self) -> None:
        self._draws: list[tuple[Draw, int, Tensor]] = []
        self._next = 0

    def read(self, draw: Draw, n: int, device: torch.device) -> Tensor:
        """The buffer of the next draw, with n rows; created by the first run, outside of the graph's memory."""
        if self._next == len(self._draws):
            self._draws.append((draw, n, to_device(_drawn(draw, n), device)))
        self._next += 1
        return self._draws[self._next - 1][2].detach()

    def rewind(self) -> None:
        """Return to the first draw."""
        self._next = 0

    def fill(self) -> None:
        """Draw new numbers, in the order of the update."""
        for draw, n, buffer in self._draws:
            buffer.copy_(to_device(_drawn(draw, n), buffer.device))


@contextmanager
def taped(tape: Tape) -> Iterator[None]:
    """Make ``joint`` read the tape from its beginning inside the context."""
    global _tape
    former, _tape = _tape, tape
    tape.rewind()
    try:
        yield
    finally:
        _tape = former


_tape: Tape | None = None


def joint_sum(tensor: Tensor) -> Tensor:
    """The sum over all processes, by one all-reduce if there are several."""
    if _running is not None and _running.world_size > 1:
        distributed.all_reduce(tensor)
    return tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on the device, without a synchronization."""
    if device.type == "cpu" or tensor.device == device:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def fixed_rows(draw: Draw, seed: int, start: int, stop: int) -> Tensor:
    """Rows [start, stop) of an endless draw; each row depends only on the seed and its index."""
    blocks = range(start // BLOCK, -(-stop // BLOCK))
    rows = torch.cat([draw(BLOCK, torch.Generator().manual_seed(stream_seed(seed, block))) for block in blocks])
    return rows[start - blocks.start * BLOCK : stop - blocks.start * BLOCK]
