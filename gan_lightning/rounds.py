"""One round of the game: the order of the players' updates and the samples that they use."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor

from gan_lightning.batch import Batch
from gan_lightning.game import Game, Terms
from gan_lightning.graphs import Compute, Graphs
from gan_lightning.log import LossLog
from gan_lightning.optim import settings
from gan_lightning.player import Player
from gan_lightning.schedules import Ramp
from gan_lightning.streams import Streams, joint

Order = Literal["discriminator_first", "generator_first", "simultaneous"]


class Round:
    """``critic_steps`` updates of D, each on new real data, and one update of G.

    Orders (with ``critic_steps`` of 1):

    - ``discriminator_first``: D steps on G's samples, then G against the new D (Goodfellow et al. 2014, algorithm 1);
    - ``generator_first``: G steps, then D steps on the new G's samples;
    - ``simultaneous``: both gradients are computed before either player steps.

    With ``reuse_fakes``, D's last update and G's update use the same generated samples. With ``generator_first``, this
    is simultaneous descent, because the samples, and so D's gradient, precede G's step.
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
        self.observed: dict[str, Tensor] = {}  # of the last observed round
        self.has_begun = False  # whether a player has stepped; reset by the caller at the end of the round

    def play(self, step: int, reals: Sequence[Sequence[Batch]], observes: bool = False) -> None:
        """Run G's update ``step``, from 0, and D's updates on reals[0], reals[1], ..., each a list of micro-batches."""
        self.streams.begin(step)
        for ramp in self.ramps.values():
            ramp.step = step
        self.g.measures = self.d.measures = observes
        first, last = step * self.critic_steps, len(reals) - 1  # of D's updates
        if self.order == "generator_first":
            shared = self._fakes(reals[0]) if self.reuse_fakes else None
            prepared = self._prepared(reals[0]) if self.reuse_fakes else reals[0]
            self._update_generator(step, reals[0], shared)
            self._update_discriminator(first, prepared, shared)
            for k, real in enumerate(reals[1:], 1):
                self._update_discriminator(first + k, real)
            return
        for k, real in enumerate(reals[:-1]):
            self._update_discriminator(first + k, real)
        shared = self._fakes(reals[-1]) if self.reuse_fakes else None
        if self.order == "simultaneous":
            # D's gradient depends on G only through the samples: with these made first, G may step before D
            fakes, prepared = shared or self._fakes(reals[-1], graph=False), self._prepared(reals[-1])
            self._update_generator(step, reals[-1], shared)
            self._update_discriminator(first + last, prepared, fakes)
        else:
            self._update_discriminator(first + last, reals[-1], shared)
            self._update_generator(step, reals[-1], shared)

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

    def _update_discriminator(self, update: int, reals: Sequence[Batch], fakes: Sequence[Batch] | None = None) -> None:
        """Run D's update number ``update`` on micro-batches of real samples and equally many of G's."""

        def gradients(reals: Sequence[Batch]) -> list[dict[str, Tensor]]:
            return self.d.gradients(self._discriminator_terms(update, reals, fakes), len(reals))

        terms = self._gradients(self.d, update, gradients, reals)
        self.d.step()
        self.has_begun = True
        self.losses.add("discriminator", update // self.critic_steps + 1, terms)

    def _discriminator_terms(
        self, update: int, reals: Sequence[Batch], fakes: Sequence[Batch] | None
    ) -> Iterator[Terms]:
        for i, real in enumerate(reals):
            fake = fakes[i]._replace(x=fakes[i].x.detach()) if fakes else self._fake(real, graph=False)
            terms = self.game.discriminator_terms(real, fake, update)
            if self.d.measures:
                self.observed |= self.game.describe(terms.outputs)
            yield terms

    def _update_generator(self, step: int, reals: Sequence[Batch], fakes: Sequence[Batch] | None = None) -> None:
        """Run G's update number ``step`` through the frozen D."""

        def gradients(reals: Sequence[Batch]) -> list[dict[str, Tensor]]:
            terms = (
                self.game.generator_terms(real, fakes[i] if fakes else self._fake(real), step)
                for i, real in enumerate(reals)
            )
            return self.g.gradients(terms, len(reals))

        terms = self._gradients(self.g, step, gradients, reals)
        self.g.step()
        self.has_begun = True
        self.losses.add("generator", step + 1, terms)

    def _gradients(
        self, player: Player, update: int, compute: Compute, reals: Sequence[Batch]
    ) -> list[dict[str, Tensor]]:
        """Run ``compute``, or replay it from a graph."""
        if self.graphs is None or player.measures:
            return compute(reals)
        regularizers = self.game.regularizers if player is self.d else self.game.generator_regularizers
        due = [name for name, part in regularizers.items() if part.is_due(update)]  # type: ignore[operator]
        return self.graphs.run((player.name, *due), compute, reals, player.weights)

    def _fake(self, real: Batch, graph: bool = True) -> Batch:
        """Generate as many samples as there are real ones, under their conditions, with or without G's graph."""
        z = joint(self.prior.sample, real.x.shape[0], self.device).to(self.dtype)
        with nullcontext() if graph else torch.no_grad():
            return self.game.generate(z, real.y)

    def _prepared(self, reals: Sequence[Batch]) -> list[Batch]:
        """Prepare the micro-batches of one update for D."""
        with torch.no_grad():
            return [self.game.prepare(real) for real in reals]

    def _fakes(self, reals: Sequence[Batch], graph: bool = True) -> list[Batch]:
        """Generate samples for all micro-batches of one update."""
        return [self._fake(real, graph) for real in reals]
