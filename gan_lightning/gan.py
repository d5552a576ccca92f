"""The adversarial step: the one place where two optimizers train two players."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Literal, get_args

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from gan_lightning.batch import Batch, as_batch, as_rounds, check_cut, micro_batches
from gan_lightning.ema import MovingAverage
from gan_lightning.errors import Diverged, UsageError
from gan_lightning.game import Game, Terms
from gan_lightning.log import ADVICE, LossLog
from gan_lightning.player import Player, count_step, log_by_steps
from gan_lightning.strategy import Replicas
from gan_lightning.streams import Streams, joint
from gan_lightning.validation import EQUILIBRIUM, SEED, Validation

Order = Literal["discriminator_first", "generator_first", "simultaneous"]
OptimizerFactory = Callable[..., Optimizer]
ADAM = partial(Adam, lr=2e-4, betas=(0.5, 0.999))  # Radford et al. 2015
PLAYERS = ("generator", "discriminator")


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """The networks are in evaluation mode inside and in their former modes after."""
    modes = [network.training for network in networks]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for network, mode in zip(networks, modes, strict=True):
            network.train(mode)


class GAN(LightningModule):
    """Two players of a game that train each other.

    One round is ``critic_steps`` updates of the discriminator, each on fresh real data, and one of the generator; a
    batch of this package's data modules carries whole rounds, one of any other loader is a round.
    ``trainer.global_step`` is the number of generator updates.

    Orders of one round (with ``critic_steps`` of 1):

    - ``discriminator_first``: D steps on G's samples, then G against the new D (Goodfellow et al. 2014, algorithm 1);
    - ``generator_first``: G steps, then D steps on the new G's samples;
    - ``simultaneous``: both step from where both were.

    With ``reuse_fakes`` the two updates that meet share one batch of samples. Generator first with shared samples is
    simultaneous descent: the samples, and so D's gradient, come from before G's step.
    """

    automatic_optimization: bool

    def __init__(
        self,
        game: Game,
        generator_optimizer: OptimizerFactory = ADAM,
        discriminator_optimizer: OptimizerFactory = ADAM,
        *,
        schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
        critic_steps: int = 1,
        order: Order = "discriminator_first",
        reuse_fakes: bool = False,
        ema_decay: float = 0.0,
        ema_warmup: bool = True,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: Literal["norm", "value"] = "norm",
        accumulate_grad_batches: int = 1,
    ) -> None:
        super().__init__()
        if order not in get_args(Order):
            raise UsageError(f"model.order is {order!r}: choose one of {', '.join(get_args(Order))}.")
        self.automatic_optimization = False
        self.game = game
        self.average = MovingAverage(self._averaged_networks(), ema_decay, ema_warmup) if ema_decay else None
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.schedule = schedule
        self.critic_steps = critic_steps
        self.order = order
        self.reuse_fakes = reuse_fakes
        self.gradient_clip_val = gradient_clip_val
        self.gradient_clip_algorithm = gradient_clip_algorithm
        self.accumulate_grad_batches = accumulate_grad_batches
        self.seed = torch.initial_seed()
        self.config: dict[str, Any] = {}  # the run's resolved configuration, a passenger of the checkpoint
        self.described: dict[str, Any] = {}  # the data that it is trained on, likewise
        self.validation_seed = SEED
        self.loaded_step = 0  # of the checkpoint that training.load read
        self.register_buffer("images_seen", torch.zeros((), dtype=torch.int64))
        self.images_seen: Tensor
        self.is_between_rounds = True  # the weights and the step belong together
        self.log_step = -1  # of the last line of the log
        self.log_line: dict[str, float] = {}
        self.validated_step = -1  # the global step of the last validation
        self.losses = LossLog()  # since the last line of the log
        self._observed: dict[str, Tensor] = {}  # what a line of the log shows of its round, besides the losses
        self._saved_losses: dict[str, Any] | None = None

    # ------------------------------------------------------------------------------------------------ sampling

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Samples, (N, *sample_shape), of latents z, (N, latent_size): of the averaged generator where there is one."""
        with self.sampling():
            return self.game.generate(z, y).x

    @torch.no_grad()
    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        latents: Tensor | None = None,
        labels: Tensor | None = None,
        raw: bool = False,
    ) -> Tensor:
        """n samples, (n, *sample_shape), of the averaged generator, or of the live one, in evaluation mode.

        A conditional generator makes its classes in turn unless ``labels``, (n,), are given.
        """
        z = self.game.prior.sample(n, generator) if latents is None else latents
        if labels is None and self.game.is_conditional:
            labels = torch.arange(len(z)) % len(self.described["class_names"])
        with self.sampling(raw):
            return self.game.generate(z.to(self.device).to(self.dtype), _to(labels, self.device)).x

    def _averaged_networks(self) -> nn.ModuleDict:
        return nn.ModuleDict({name: getattr(self.game, name) for name in self.game.averaged})

    @contextmanager
    def sampling(self, raw: bool = False) -> Iterator[None]:
        """The game's networks that make samples are the averaged ones inside, unless ``raw``, in evaluation mode."""
        live = dict(self._averaged_networks().items())
        networks = live if raw or self.average is None else dict(self.average.network.named_children())
        for name, network in networks.items():
            setattr(self.game, name, network)
        try:
            with evaluating(*networks.values()):
                yield
        finally:
            for name, network in live.items():
                setattr(self.game, name, network)

    # ---------------------------------------------------------------------------------------------- the step

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Train the rounds that the batch carries."""
        rounds = as_rounds(batch, self.critic_steps, self.accumulate_grad_batches)
        n = self.accumulate_grad_batches
        batches = micro_batches(rounds)
        updates = [batches[i : i + n] for i in range(0, len(batches), n)]
        self.described.setdefault("sample_shape", tuple(rounds.x.shape[4:]))  # of a plain loader
        before = self.trainer.global_step
        try:
            with self._streams.running():
                for first in range(0, len(updates), self.critic_steps):
                    self._round(updates[first : first + self.critic_steps])
        finally:  # also where one's own code fails in the middle of a batch
            done = self.trainer.global_step - before
            self.images_seen += done * rounds.x.shape[1:4].numel() * self.trainer.world_size
            log_by_steps(self.trainer)

    def _round(self, reals: Sequence[Sequence[Batch]]) -> None:
        """``critic_steps`` updates of D, on reals[0], reals[1], ..., and one of G, in the chosen order."""
        step = self.trainer.global_step
        is_logging = (step + 1) % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        self._g.measures = self._d.measures = is_logging
        first = step * self.critic_steps  # of D's updates
        if self.order == "generator_first":
            shared = self._fakes("generator", step, reals[0]) if self.reuse_fakes else None
            self._update_generator(step, reals[0], shared)
            self._update_discriminator(first, reals[0], shared)
            for k, real in enumerate(reals[1:], 1):
                self._update_discriminator(first + k, real)
        else:
            last = len(reals) - 1
            for k, real in enumerate(reals[:-1]):
                self._update_discriminator(first + k, real)
            shared = self._fakes("generator", step, reals[-1]) if self.reuse_fakes else None
            if self.order == "simultaneous":
                # D's gradient needs G only through its samples: draw them first, then G may step before D
                fakes = shared or self._fakes("discriminator", first + last, reals[-1], graph=False)
                self._update_generator(step, reals[-1], shared)
                self._update_discriminator(first + last, reals[-1], fakes)
            else:
                self._update_discriminator(first + last, reals[-1], shared)
                self._update_generator(step, reals[-1], shared)
        self._after_round(step, is_logging)

    def _update_discriminator(self, update: int, reals: Sequence[Batch], fakes: Sequence[Batch] | None = None) -> None:
        """D's update of that number on micro-batches of real samples, and as many of G's."""
        self._streams.begin("discriminator", update)
        terms = self._d.update(self._discriminator_terms(update, reals, fakes), len(reals))
        self.is_between_rounds = False
        self.losses.add("discriminator", update // self.critic_steps + 1, terms)

    def _discriminator_terms(
        self, update: int, reals: Sequence[Batch], fakes: Sequence[Batch] | None
    ) -> Iterator[Terms]:
        for i, real in enumerate(reals):
            fake = _detached(fakes[i]) if fakes else self._fake(real, graph=False)
            terms = self.game.discriminator_terms(real, fake, update)
            if self._d.measures:
                self._observed |= self.game.describe(terms.outputs)
            yield terms

    def _update_generator(self, step: int, reals: Sequence[Batch], fakes: Sequence[Batch] | None = None) -> None:
        """G's update of that number through the frozen D."""
        self._streams.begin("generator", step)
        terms = (
            self.game.generator_terms(real, fakes[i] if fakes else self._fake(real), step)
            for i, real in enumerate(reals)
        )
        played = self._g.update(terms, len(reals))
        self.is_between_rounds = False
        self.losses.add("generator", step + 1, played)
        count_step(self.trainer)

    def _fake(self, real: Batch, graph: bool = True) -> Batch:
        """As many new samples of G as there are real ones, under their conditions, with G's graph or without."""
        z = joint(self.game.prior.sample, len(real.x))
        with nullcontext() if graph else torch.no_grad():
            return self.game.generate(_to(z, self.device).to(self.dtype), real.y)

    def _fakes(self, player: str, update: int, reals: Sequence[Batch], graph: bool = True) -> list[Batch]:
        """New samples for all the micro-batches of one update, from a stream of their own."""
        self._streams.begin(f"{player}/latents", update)
        return [self._fake(real, graph) for real in reals]

    def _after_round(self, step: int, is_logging: bool) -> None:
        """What follows G's step: its average, the schedules, a line of the log when one is due."""
        if self.average is not None:
            self.average.update(step)
        if self.schedule is not None:
            for config in self.trainer.lr_scheduler_configs:
                config.scheduler.step()  # type: ignore[call-arg]
        self.is_between_rounds = True
        if is_logging:
            self._log_line()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Let the player clip its gradients."""
        (self._g if optimizer is self._g.optimizer else self._d).before_step()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """G's and D's optimizer, in this order, and their schedules over the whole run."""
        players = self.game.players()
        optimizers = [
            make([weight for network in players[name] for weight in network.parameters()])
            for name, make in zip(PLAYERS, (self.generator_optimizer, self.discriminator_optimizer), strict=True)
        ]
        if self.schedule is None:
            return optimizers
        return optimizers, [self.schedule(optimizer, total_steps(self.trainer)) for optimizer in optimizers]

    # --------------------------------------------------------------------------------------------- the log

    def _log_line(self) -> None:
        """Mean losses since the last line, and what was observed in this round."""
        observed = self.losses.means(self._mean_over_ranks)
        for player in (self._g, self._d):
            if player.gradient_norm is not None:
                self._observed[f"gradient_norm/{player.name}"] = player.gradient_norm
        seen = self._mean_over_ranks(torch.stack([value.float() for value in self._observed.values()]))
        # one transfer from the device for all of them
        numbers = torch.cat([torch.stack(list(observed.values())).float(), seen]).tolist()
        values = dict(zip([*observed, *self._observed], numbers, strict=True))
        self.losses.clear()
        self._observed.clear()
        for player in (self._g, self._d):
            values[f"learning_rate/{player.name}"] = player.optimizer.param_groups[0]["lr"]
        for logger in self.loggers:
            logger.log_metrics(values, step=self.trainer.global_step)
        # without self.log, which costs more than a toy's updates
        self.trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})
        self.log_step, self.log_line = self.trainer.global_step, values

    def _mean_over_ranks(self, values: Tensor) -> Tensor:
        mean = self.trainer.strategy.reduce(values, reduce_op="mean")
        assert isinstance(mean, Tensor)
        return mean

    # ------------------------------------------------------------------------------------------- validation

    def setup(self, stage: str) -> None:
        """Take the metrics that know the data's truth from the data module, if it has any."""
        data: Any = getattr(self.trainer, "datamodule", None)
        self.validation = Validation(data.metrics() if hasattr(data, "metrics") else {})
        self.described = {
            name: getattr(data, name) for name in ("sample_shape", "class_names", "value_range") if hasattr(data, name)
        }

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Compare the averaged generator's samples with held-out real ones."""
        with self.sampling():
            rank, ranks = self.global_rank, self.trainer.world_size
            self.validation.update(self.game, as_batch(batch), self.validation_seed, rank, ranks)

    def on_validation_epoch_end(self) -> None:
        values = self.validation.compute(self.game, self.device)
        if self.trainer.sanity_checking:
            return
        self.validated_step = self.trainer.global_step
        self.log_dict(values, prog_bar=True, logger=False, sync_dist=True)  # they agree already
        numbers = {name: value.item() for name, value in values.items()}
        if "val/value" in numbers:
            numbers["val/value_bound"] = EQUILIBRIUM  # a line beside the curve
        for logger in self.loggers:
            logger.log_metrics(numbers, step=self.trainer.global_step)

    # ------------------------------------------------------------------------------- checkpoints and resume

    def on_train_start(self) -> None:
        """Give each player its optimizer, and begin the run's random streams."""
        check(self)
        optimizers = [optimizer.optimizer for optimizer in self.optimizers()]  # type: ignore[union-attr]
        players = self.game.players()
        clip = self.gradient_clip_val, self.gradient_clip_algorithm
        self._g, self._d = (
            Player(name, players[name], optimizer, self, *clip)
            for name, optimizer in zip(PLAYERS, optimizers, strict=True)
        )
        self._g.rivals, self._d.rivals = self._d.weights, self._g.weights
        if self.average is not None:
            self.average.follow(self._averaged_networks())
        self._streams = Streams(self.seed, self.global_rank, self.trainer.world_size, self.device)
        if self._saved_losses is not None:
            self.losses.load(self._saved_losses, self.device)
            self._saved_losses = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the configuration, the data's shape and the losses since the last line, all in plain containers.

        Raises:
            Diverged: a loss, weight, buffer or optimizer's moment is not finite, so the last good checkpoint stays.
        """
        self.losses.means(self._mean_over_ranks)
        if broken := not_finite(checkpoint):
            raise Diverged(f"{broken} is no longer finite at step {self.trainer.global_step}: {ADVICE}")
        checkpoint["gan"] = {
            "config": self.config,
            "data": self.described,
            "seed": self.seed,
            "losses": self.losses.state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.seed = checkpoint["gan"]["seed"]
        self.described = checkpoint["gan"]["data"] | self.described
        self._saved_losses = checkpoint["gan"]["losses"]


def check(gan: GAN) -> None:
    """Refuse what cannot be trained before anything is.

    Raises:
        UsageError: several devices without ``Replicas``, or a loader's batches cannot be cut into updates.
    """
    trainer: Any = gan.trainer
    if trainer.world_size > 1 and not isinstance(trainer.strategy, Replicas):
        raise UsageError(
            f"{type(trainer.strategy).__name__} is made for one loss: train on several devices with "
            "strategy=gan_lightning.strategy.Replicas(), which train.py takes for trainer.strategy=ddp."
        )
    loader = trainer.train_dataloader
    if isinstance(loader, DataLoader) and loader.batch_size is not None:
        last = 0 if loader.drop_last or not hasattr(loader.dataset, "__len__") else len(loader.dataset)
        for n in (loader.batch_size, last % loader.batch_size):
            check_cut(n, gan.critic_steps, gan.accumulate_grad_batches)


def total_steps(trainer: Any) -> int:
    """The generator updates of the whole run, by whichever limit ends it first.

    Raises:
        UsageError: the run has no end.
    """
    epochs = -1 if trainer.max_epochs is None else trainer.max_epochs
    if trainer.max_steps < 0 and epochs < 0:
        raise UsageError("A schedule needs the run's length: set trainer.max_steps or trainer.max_epochs.")
    if not hasattr(trainer.datamodule, "rounds_in_epoch"):
        return int(trainer.estimated_stepping_batches)
    limits = [trainer.max_steps] if trainer.max_steps >= 0 else []
    if epochs >= 0:
        limits.append(epochs * trainer.datamodule.rounds_in_epoch())
    return min(limits)


def not_finite(checkpoint: dict[str, Any]) -> str | None:
    """The name of a weight, buffer or optimizer's moment of a checkpoint that is not finite; None where all are."""
    named = dict(checkpoint["state_dict"])
    for player, optimizer in zip(PLAYERS, checkpoint["optimizer_states"], strict=False):
        for index, state in optimizer["state"].items():
            named |= {f"The {player}'s optimizer state {key} of weight {index}": v for key, v in state.items()}
    named = {name: t for name, t in named.items() if isinstance(t, Tensor) and t.is_floating_point() and t.numel()}
    if not named:
        return None
    largest = torch.stack([norm.double().cpu() for norm in torch._foreach_norm(list(named.values()), math.inf)])
    return next((name for name, norm in zip(named, largest.tolist(), strict=True) if not math.isfinite(norm)), None)


def _detached(batch: Batch) -> Batch:
    return batch._replace(x=batch.x.detach())


def _to(tensor: Tensor | None, device: torch.device) -> Any:
    """A copy on the device that its queue does not wait for."""
    if tensor is None or tensor.device == device:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
