"""One round of the game: the order of the players' updates and the samples that they use."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor

from gan_lightning.batch import Batch, apply
from gan_lightning.errors import UsageError
from gan_lightning.game import Game, Terms
from gan_lightning.graphs import Graphs
from gan_lightning.log import LossLog
from gan_lightning.optim import settings
from gan_lightning.player import Move, Player
from gan_lightning.schedules import Ramp
from gan_lightning.streams import Streams, joint

Order = Literal["discriminator_first", "generator_first", "simultaneous"]


class Round:
    """``critic_steps`` updates of D, each on new real data, and one update of G.

    Orders (with ``critic_steps`` of 1):

    - ``discriminator_first``: D steps on G's samples, then G against the new D (Goodfellow et al. 2014, algorithm 1);
    - ``generator_first``: G steps, then D steps on the new G's samples;
    - ``simultaneous``: both gradients are computed before either player steps.

    With ``reuse_fakes``, G's update and D's update next to it use the same generated samples: D's last, or its first
    with ``generator_first``, where this is simultaneous descent, because the samples precede G's step.
    """

    def __init__(
        self,
        game: Game,
        generator: Player,
        discriminator: Player,
        streams: Streams,
        dtype: torch.dtype,
        *,
        order: Order,
        critic_steps: int,
        reuse_fakes: bool,
        losses: LossLog,
        ramps: Mapping[str, Ramp],
        graphs: Graphs | None = None,
    ) -> None:
        # plain attributes: nn.Module's attribute lookup takes 1% of the time of a tiny GAN
        self.game, self.prior = game, game.prior
        self.g, self.d = generator, discriminator
        self.streams = streams
        self.device, self.dtype = streams.device, dtype
        self.order, self.critic_steps, self.reuse_fakes = order, critic_steps, reuse_fakes
        self.losses = losses
        self.ramps = ramps  # scheduled values, by name
        self.graphs = graphs
        self.fakes: list[Batch] | None = None  # made by the first of two moves for both
        self.prepared: list[Batch] | None = None  # real batches for D, if G moves before
        self.observed: dict[str, Tensor] = {}  # of the last observed round
        self.has_begun = False  # whether a player has stepped; reset by the caller at the end of the round

    def play(self, step: int, reals: Sequence[Sequence[Batch]], observes: bool = False) -> None:
        """Run G's update ``step``, from 0, and D's updates on reals[0], reals[1], ..., each a list of micro-batches."""
        self.streams.begin(step)
        for ramp in self.ramps.values():
            ramp.step = step
        self.g.measures = self.d.measures = observes
        joined = 0 if self.order == "generator_first" else len(reals) - 1  # D's update next to which G has its own
        for k, real in enumerate(reals):
            discriminator = self._discriminator_move(step * self.critic_steps + k)
            if k == joined:
                self._run_both(discriminator, self._generator_move(step), real)
            else:
                self._run([discriminator], real)

    def take_line(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Return values to log by name: mean losses since the last call, and observations of this round.

        ``reduce`` averages over processes.
        """
        players = (self.g, self.d)
        means = self.losses.means(reduce)
        observed = self.observed | {f"gradient_norm/{player.name}": player.gradient_norm for player in players}
        seen = reduce(torch.stack([value.float() for value in observed.values()]))
        # a single transfer from the device
        numbers = torch.cat([torch.stack(list(means.values())).float(), seen]).tolist()
        self.losses.clear()
        self.observed.clear()
        rates = {f"{name}/{player.name}": v for player in players for name, v in settings(player.optimizer).items()}
        ramps = {f"ramp/{name}": float(ramp) for name, ramp in self.ramps.items()}
        return dict(zip([*means, *observed], numbers, strict=True)) | rates | ramps

    def _discriminator_move(self, update: int) -> Move:
        """D's update number ``update`` on micro-batches of real samples and equally many of G's."""

        def gradients(reals: Sequence[Batch]) -> list[dict[str, Tensor]]:
            return self.d.gradients(self._discriminator_terms(update, self.prepared or reals), len(reals))

        return Move(self.d, update, gradients)

    def _generator_move(self, step: int) -> Move:
        """G's update number ``step`` through the frozen D."""

        def gradients(reals: Sequence[Batch]) -> list[dict[str, Tensor]]:
            fakes = self.fakes if self.reuse_fakes else None
            terms = (
                self.game.generator_terms(real, fakes[i] if fakes else self._fake(real), step)
                for i, real in enumerate(reals)
            )
            return self.g.gradients(terms, len(reals))

        return Move(self.g, step, gradients)

    def _run_both(self, discriminator: Move, generator: Move, reals: Sequence[Batch]) -> None:
        """Run both players' moves, of which the first makes the samples that both need."""
        d_first = self.order == "discriminator_first"
        one, other = (discriminator, generator) if d_first else (generator, discriminator)
        if not self.reuse_fakes and self.order != "simultaneous":
            self._run([one], reals)
            self._run([other], reals)
            return

        def gradients(reals: Sequence[Batch]) -> list[dict[str, Tensor]]:
            # D's gradient depends on G only through the samples: with these made first, G may step before D
            self.fakes = self._fakes(reals, graph=self.reuse_fakes)
            self.prepared = None if d_first else self._prepared(reals)
            return one.compute(reals)

        self._run([one._replace(compute=gradients), other], reals)
        self.fakes = self.prepared = None

    def _run(self, moves: Sequence[Move], reals: Sequence[Batch]) -> None:
        """Run moves in turn, or replay them from graphs."""
        if self.graphs is None or self.d.measures:
            for move in moves:
                self._finish(move, move.compute(reals))
        else:
            kind = tuple((move.player.name, *self._due(move)) for move in moves)
            self.graphs.run(kind, moves, reals, self._finish)

    def _finish(self, move: Move, terms: list[dict[str, Tensor]]) -> None:
        """Step on the gradients of a move, and note the terms of its loss."""
        move.player.step()
        self.has_begun = True
        step = move.update if move.player is self.g else move.update // self.critic_steps
        self.losses.add(move.player.name, step + 1, terms)

    def _due(self, move: Move) -> list[str]:
        """The names of the regularizers of a move."""
        regularizers = self.game.regularizers if move.player is self.d else self.game.generator_regularizers
        return [name for name, part in regularizers.items() if part.is_due(move.update)]  # type: ignore[operator]

    def _discriminator_terms(self, update: int, reals: Sequence[Batch]) -> Iterator[Terms]:
        if self.game.augment is not None:
            self.game.augment.begin(update)
        for i, real in enumerate(reals):
            fake = apply(Tensor.detach, self.fakes[i]) if self.fakes else self._fake(real, graph=False)
            terms = self.game.discriminator_terms(real, fake, update)
            if self.d.measures:
                self.observed |= self.game.describe(terms.outputs)
            yield terms

    def _fake(self, real: Batch, graph: bool = True) -> Batch:
        """Generate as many samples as there are real ones, under their conditions, with or without G's graph."""
        z = joint(self.prior.sample, real.x.shape[0], self.device).to(self.dtype)
        with nullcontext() if graph else torch.no_grad():
            fake = self.game.generate(z, real.y)
        if fake.x.shape != real.x.shape:  # broadcasting would hide it
            raise UsageError(
                f"The generator gives samples {tuple(fake.x.shape)}, but the data has {tuple(real.x.shape)}: give both "
                "the same shape, (N, *sample_shape)."
            )
        return fake

    def _prepared(self, reals: Sequence[Batch]) -> list[Batch]:
        """Prepare the micro-batches of one update for D."""
        with torch.no_grad():
            return [self.game.prepare(real) for real in reals]

    def _fakes(self, reals: Sequence[Batch], graph: bool) -> list[Batch]:
        """Generate samples for all micro-batches of one update."""
        return [self._fake(real, graph) for real in reals]
