"""The LightningModule: two optimizers train two players."""

import math
from collections.abc import Callable, Collection, Sequence, Sized
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning import LightningModule
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.utils.data import DataLoader

from gan_lightning.batch import as_batch, as_rounds, check_cut, micro_batches
from gan_lightning.checks import FLAG, POSITIVE, SIZE, check_values, one_of, optional
from gan_lightning.ema import MovingAverage
from gan_lightning.errors import Diverged, UsageError
from gan_lightning.files import is_damaged
from gan_lightning.game import Game, standing_in
from gan_lightning.graphs import Graphs, check_graphs
from gan_lightning.labels import asked_for
from gan_lightning.log import ADVICE, LossLog
from gan_lightning.player import Player, count_step, log_by_steps, mend_epochs
from gan_lightning.rebuilt import built, take_changes
from gan_lightning.regularizers import Regularizer
from gan_lightning.rounds import Order, Round
from gan_lightning.schedules import HalfLife, Ramp
from gan_lightning.strategy import Replicas
from gan_lightning.streams import Streams
from gan_lightning.validation import Validation, equilibrium

OptimizerFactory = Callable[..., Optimizer]
Scheduled = Literal["both", "generator", "discriminator"]
ADAM = partial(Adam, lr=2e-4, betas=(0.5, 0.999))  # Radford et al. 2015
PLAYERS = ("generator", "discriminator")
UNLOGGED = 50  # steps between checks of the losses if nothing is logged


class GAN(LightningModule):
    """A LightningModule that trains the two players of a ``Game``.

    A round is ``critic_steps`` updates of the discriminator, each on new real data, and one update of the generator.
    A batch of this package's data modules contains several rounds; a batch of any other loader is one round.
    ``trainer.global_step`` is the number of generator updates. ``order`` and ``reuse_fakes`` are described in
    ``gan_lightning.rounds``, ``ema_decay`` and ``ema_warmup`` in ``gan_lightning.ema``; no EMA is kept by default.
    The players named by ``scheduled`` follow ``schedule``.
    """

    automatic_optimization: bool
    images_seen: Tensor  # real samples that D has seen, over all processes
    validation_seed: int | None = None  # of the validation latents; None for the run's seed
    loaded_step = 0  # of the loaded checkpoint
    evaluated: Sequence[nn.Module] = ()  # the parts that load() has put in evaluation mode
    log_step = -1  # of the last logged line
    validated_step = -1  # of the last validation
    _infinite: Collection[str] = ()  # buffers that started the run with infinite values, such as masks
    _saved_losses: dict[str, Any] | None = None
    _formerly_built: dict[str, list[Any]] | None = None  # _built of the resumed run

    def __init__(
        self,
        game: Game,
        generator_optimizer: OptimizerFactory = ADAM,
        discriminator_optimizer: OptimizerFactory = ADAM,
        *,
        schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
        scheduled: Scheduled = "both",
        critic_steps: int = 1,
        order: Order = "discriminator_first",
        reuse_fakes: bool = False,
        ema_decay: float | HalfLife = 0.0,
        ema_warmup: bool = True,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: Literal["norm", "value"] = "norm",
        accumulate_grad_batches: int = 1,
        cuda_graphs: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(game, Game):
            raise UsageError(
                f"game is a {type(game).__name__}: give a Game, such as Game(generator, discriminator, prior)."
            )
        self.automatic_optimization = False
        self.game = game
        self.average = MovingAverage(self.game.sampled(), ema_decay, ema_warmup) if ema_decay else None
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.schedule = schedule
        self.scheduled = scheduled
        self.critic_steps = critic_steps
        self.order = order
        self.reuse_fakes = reuse_fakes
        self.gradient_clip_val = gradient_clip_val
        self.gradient_clip_algorithm = gradient_clip_algorithm
        self.accumulate_grad_batches = accumulate_grad_batches
        self.cuda_graphs = cuda_graphs
        check_values(self, critic_steps=SIZE, accumulate_grad_batches=SIZE, reuse_fakes=FLAG)
        check_values(self, order=one_of(*get_args(Order)), scheduled=one_of(*get_args(Scheduled)))
        check_values(self, gradient_clip_algorithm=one_of("norm", "value"), gradient_clip_val=optional(POSITIVE))
        for name in ("generator_optimizer", "discriminator_optimizer"):
            if not callable(make := getattr(self, name)) or isinstance(make, nn.Module):
                raise UsageError(
                    f"{name} is of type {type(make).__name__}: give a function that makes an optimizer of weights, "
                    "such as functools.partial(torch.optim.Adam, lr=2e-4)."
                )
        self.seed = torch.initial_seed()
        self.config: dict[str, Any] = {}  # the run's resolved configuration, saved in checkpoints
        self.described: dict[str, Any] = {}  # a description of the training data, saved in checkpoints
        self.register_buffer("images_seen", torch.zeros((), dtype=torch.int64))
        self.log_line: dict[str, float] = {}
        self.validated: dict[str, float] = {}  # the metrics at that step, if loaded from a checkpoint
        self.losses = LossLog()  # since the last logged line
        self._built: dict[str, list[Any]] = built(())  # the arguments of the optimizers and schedules

    # ------------------------------------------------------------------------------------------------ sampling

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Samples (N, *sample_shape) for latents z (N, latent_size), from the EMA generator if there is one."""
        with self.sampling():
            return self.game.generate(z, y).x

    @torch.no_grad()
    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        latents: Tensor | None = None,
        labels: Tensor | Sequence[int | str] | None = None,
        raw: bool = False,
    ) -> Tensor:
        """Draw n samples (n, *sample_shape) from the EMA generator, or the raw one with ``raw``, in evaluation mode.

        With ``latents`` (N, latent_size), there are N samples. For a conditional generator, ``labels`` are classes
        (n,), class weights (n, classes), or a list of numbers or names to alternate between; None alternates between
        all classes. Names, and None, need data whose classes are known.

        Raises:
            UsageError: there is no such class, no network is conditional, or the number of labels is not n.
        """
        z = self.game.prior.sample(n, generator) if latents is None else latents
        y = self.labels(len(z), labels)
        if y is not None and len(y) != len(z):
            raise UsageError(f"labels has {len(y)} entries for {len(z)} samples: give one per sample.")
        z = z.to(self.device).to(self.dtype)
        with self.sampling(raw):
            return self.game.generate(z, None if y is None else y.to(self.device)).x

    def labels(self, n: int, labels: Tensor | Sequence[int | str] | None = None) -> Tensor | None:
        """The classes (n,) of n samples, specified as in ``sample``; None if no network is conditional.

        Raises:
            UsageError: there is no such class, or no network is conditional.
        """
        if self.game.is_conditional:
            y = asked_for(n, self.class_names, labels)
            return y.to(self.dtype) if y.is_floating_point() else y
        if labels is not None:
            raise UsageError(
                "The networks are not conditional: leave out classes, or train with model.conditional=true."
            )
        return None

    @property
    def class_names(self) -> Sequence[str]:
        """The names of the classes that can be sampled; empty if no network is conditional."""
        return self.described.get("class_names", ()) if self.game.is_conditional else ()

    def sampling(self, raw: bool = False) -> AbstractContextManager[None]:
        """Use the averaged networks, unless ``raw``, for sampling inside the context, in evaluation mode."""
        networks = self.game.sampled() if raw or self.average is None else self.average.network
        return standing_in(self.game, dict(networks.named_children()))

    # ---------------------------------------------------------------------------------------------- the step

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Train on the rounds in the batch."""
        rounds = as_rounds(batch, self.critic_steps, self.accumulate_grad_batches, self.game.packing)
        n = self.accumulate_grad_batches
        batches = micro_batches(rounds)
        updates = [batches[i : i + n] for i in range(0, len(batches), n)]
        self.described.setdefault("sample_shape", tuple(rounds.x.shape[4:]))  # of a plain loader
        every: int = self.trainer.log_every_n_steps or UNLOGGED  # type: ignore[attr-defined]
        before, images = self.trainer.global_step, rounds.x.shape[1:4].numel() * self.trainer.world_size  # per round
        try:
            with self.round.streams.running():
                for first in range(0, len(updates), self.critic_steps):
                    step = self.trainer.global_step
                    is_logging = (step + 1) % every == 0
                    self.round.play(step, updates[first : first + self.critic_steps], is_logging)
                    self._after_round(step, images, is_logging)
        finally:  # even if the user's code fails in the middle of a batch
            self.images_seen += (self.trainer.global_step - before) * images
            log_by_steps(self.trainer)

    @property
    def is_between_rounds(self) -> bool:
        """Whether weights and step are consistent: no player has stepped since the last round ended."""
        return not self.round.has_begun

    def _after_round(self, step: int, images: int, is_logging: bool) -> None:
        """Update the average and the schedules after G's step, and log if due."""
        count_step(self.trainer)
        if self.average is not None:
            self.average.update(step, images)
        for scheduler in self._stepped:
            scheduler.step()
        self.round.has_begun = False
        if is_logging:
            self._log_line()

    def stepped(self) -> list[LRScheduler]:
        """The schedules to step after each round: those of ``schedule``, or a subclass's with an interval of "step"."""
        configs = self.trainer.lr_scheduler_configs
        return [c.scheduler for c in configs if self.schedule is not None or c.interval == "step"]

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Let the player clip its gradients."""
        (self.round.g if optimizer is self.round.g.optimizer else self.round.d).before_step()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return G's and D's optimizers, in this order, with the schedules of ``scheduled`` over the whole run."""
        check_players(self.game)
        factories = self.generator_optimizer, self.discriminator_optimizer
        optimizers = [make(self.game.weights_of(name)) for name, make in zip(PLAYERS, factories, strict=True)]
        self._built = built(optimizers)
        if self.schedule is None:
            return optimizers
        schedulers = [
            self.schedule(optimizer, total_steps(self.trainer))
            for name, optimizer in zip(PLAYERS, optimizers, strict=True)
            if self.scheduled in (name, "both")
        ]
        self._built |= {"schedulers": built((), schedulers)["schedulers"]}
        return optimizers, schedulers

    # --------------------------------------------------------------------------------------------- the log

    def _log_line(self) -> None:
        """Log mean losses since the last line, and observations of this round."""
        values = self.round.take_line(self._mean_over_ranks)
        for logger in self.loggers if self.trainer.log_every_n_steps else ():  # type: ignore[attr-defined]
            logger.log_metrics(values, step=self.trainer.global_step)
        # not self.log, which takes longer than the updates of a tiny GAN
        self.trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})
        self.log_step, self.log_line = self.trainer.global_step, values

    def _mean_over_ranks(self, values: Tensor) -> Tensor:
        mean = self.trainer.strategy.reduce(values, reduce_op="mean")
        assert isinstance(mean, Tensor)
        return mean

    # ------------------------------------------------------------------------------------------- validation

    def setup(self, stage: str) -> None:
        """Collect the metrics of the data module, if any, and of the game; note buffers that are infinite."""
        if stage == "fit":
            buffers = self.named_buffers(remove_duplicate=False)
            self._infinite = {name for name, each in buffers if not is_lazy(each) and each.isinf().any()}
            for part in self.evaluated:  # Lightning would keep the mode in which load() returns it
                part.training = True
            self.evaluated = ()
        data: Any = getattr(self.trainer, "datamodule", None)
        known = data.metrics() if callable(getattr(data, "metrics", None)) else {}
        self.validation = Validation(known | self.game.metrics(data) if known else {})
        self.described = {
            name: without_numpy(getattr(data, name))
            for name in ("sample_shape", "class_names", "value_range", "units", "blocks", "joint_batch", "fingerprint")
            if hasattr(data, name)
        }

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Compare samples of the averaged generator with held-out real samples."""
        with self.sampling():
            rank, ranks = self.global_rank, self.trainer.world_size
            seed = self.seed if self.validation_seed is None else self.validation_seed
            self.validation.update(self.game, as_batch(batch), seed, rank, ranks)

    def on_validation_epoch_end(self) -> None:
        values = self.validation.compute(self.game, self.device)
        if self.trainer.sanity_checking:
            return
        self.validated_step = self.trainer.global_step
        self.log_dict(values, prog_bar=True, logger=False, sync_dist=True)  # equal on all ranks already
        numbers = {name: value.item() for name, value in values.items()}
        if "val/value" in numbers:
            numbers["val/value_bound"] = equilibrium(self.game.loss)  # a reference line in plots
        for logger in self.loggers:
            logger.log_metrics(numbers, step=self.trainer.global_step)

    # ------------------------------------------------------------------------------- checkpoints and resume

    def on_train_start(self) -> None:
        """Create the players with their optimizers, and start the run's random streams."""
        optimizers = self.trainer.optimizers
        check(self)
        self._stepped = self.stepped()
        if self._formerly_built is not None:
            schedulers = [config.scheduler for config in self.trainer.lr_scheduler_configs]
            take_changes(optimizers, schedulers, self._formerly_built, self._built)
            self._formerly_built = None
        if self._saved_losses is not None:
            self.losses.load(self._saved_losses, self.device)
            self._saved_losses = None
        if self.average is not None:
            self.average.follow(self.game.sampled())
        self.round = begin(self, optimizers)

    def on_train_end(self) -> None:
        """Free the memory of CUDA graphs."""
        self.round.graphs = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the configuration, the data's description and the losses since the last logged line, as plain containers.

        Raises:
            Diverged: a loss, weight, buffer or optimizer state is not finite; the last good checkpoint is kept.
        """
        self.losses.means(self._mean_over_ranks)
        if broken := not_finite(checkpoint, self._infinite):
            raise Diverged(f"{broken} is no longer finite at step {self.trainer.global_step}: {ADVICE}")
        checkpoint["gan"] = {
            "config": self.config,
            "data": self.described,
            "seed": self.seed,
            "losses": self.losses.state(),
            "built": self._built,
            "scheduled": self.scheduled,
            "validated": measured(self.trainer) if self.validated_step == self.trainer.global_step else {},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what ``on_save_checkpoint`` has added.

        Raises:
            UsageError: the file is damaged, or the run to resume had schedules of other players.
        """
        if self._trainer is not None:  # load_from_checkpoint has none
            path = Path(self.trainer.ckpt_path or "")
            if path.is_file() and is_damaged(path):
                raise UsageError(f"{path} is damaged: resume from another checkpoint.")
            mend_epochs(checkpoint, self.trainer)
            former = checkpoint["gan"].get("scheduled", "both")  # schedules are stored without their players' names
            if checkpoint.get("lr_schedulers") and former != self.scheduled:
                raise UsageError(f"{path} is of a run with scheduled={former!r}: resume it with the same.")
        self.seed = checkpoint["gan"]["seed"]
        self.described = checkpoint["gan"]["data"] | self.described
        self._saved_losses = checkpoint["gan"]["losses"]
        self._formerly_built = checkpoint["gan"]["built"]
        if validated := checkpoint["gan"].get("validated"):
            self.validated_step, self.validated = checkpoint["global_step"], validated


def begin(gan: GAN, optimizers: Sequence[Optimizer]) -> Round:
    """Create the ``Round`` of a run that starts or resumes, with its players and random streams."""
    g, d = (
        Player(name, gan.game.weights_of(name), optimizer, gan, gan.gradient_clip_val, gan.gradient_clip_algorithm)
        for name, optimizer in zip(PLAYERS, optimizers, strict=True)
    )
    g.rivals = d.weights  # D's update has no graph through G
    for player, regularizers in ((g, gan.game.generator_regularizers), (d, gan.game.regularizers)):
        for part in regularizers.values():
            if is_overridden("after_step", part, Regularizer):
                player.optimizer.register_step_post_hook(partial(follow_step, part, player))  # type: ignore[arg-type]
    return Round(
        gan.game,
        g,
        d,
        Streams(gan.seed, gan.global_rank, gan.trainer.world_size, gan.device),
        gan.dtype,  # type: ignore[arg-type]
        order=gan.order,
        critic_steps=gan.critic_steps,
        reuse_fakes=gan.reuse_fakes,
        losses=gan.losses,
        ramps={name.removeprefix("game."): part for name, part in gan.named_modules() if isinstance(part, Ramp)},
        graphs=Graphs() if gan.cuda_graphs else None,
    )


def follow_step(regularizer: Regularizer, player: Player, *_: Any) -> None:
    """Call a regularizer's ``after_step``; a hook of the player's optimizer."""
    regularizer.after_step([weight for weight in player.weights if weight.requires_grad])


def check(gan: GAN) -> None:
    """Check the strategy and the batch size before training starts.

    Raises:
        UsageError: optimizers of other weights, a schedule by a metric, a strategy of several devices other than
            ``Replicas``, updates that no CUDA graph can replay, or batches that cannot be split into updates.
    """
    trainer: Any = gan.trainer
    if isinstance(trainer.strategy, ParallelStrategy) and not isinstance(trainer.strategy, Replicas):
        raise UsageError(
            f"{type(trainer.strategy).__name__} is made for one loss: train on several devices with "
            "strategy=gan_lightning.strategy.Replicas(), which train.py uses for trainer.strategy=ddp."
        )
    check_optimizers(gan, trainer)
    if gan.cuda_graphs:
        check_graphs(gan, trainer)
    loader = trainer.train_dataloader
    if isinstance(loader, DataLoader) and loader.batch_size is not None:
        last = len(loader.sampler) if isinstance(loader.sampler, Sized) and not loader.drop_last else 0
        for n in (loader.batch_size, last % loader.batch_size):
            check_batch(gan.game, n, gan.critic_steps, gan.accumulate_grad_batches)
    elif n := getattr(trainer.datamodule, "batch_size", 0):  # of each micro-batch
        check_batch(gan.game, n, 1, 1)


def check_batch(game: Game, n: int, critic_steps: int, accumulate: int) -> None:
    """Check that a batch of n samples can be split into micro-batches that every penalty is defined for; 0 is none.

    Raises:
        UsageError: it cannot, or there are too few samples.
    """
    check_cut(n, critic_steps, accumulate, game.packing)
    for part in (*game.regularizers.values(), *game.generator_regularizers.values()) if n else ():
        part.check_batch(n // (critic_steps * accumulate), game.packing)  # type: ignore[operator]


def check_players(game: Game) -> None:
    """Check that each player has weights to train, and that they share none.

    Raises:
        UsageError: a player has none, or a weight belongs to both, of which only D would train it.
    """
    seen: dict[int, str] = {}
    for player, networks in game.players().items():
        weights = [(name, w) for network in networks for name, w in network.named_parameters() if w.requires_grad]
        if not weights:
            raise UsageError(f"The {player} has no weights that require gradients: unfreeze some, or choose another.")
        for name, weight in weights:
            if (other := seen.setdefault(id(weight), player)) != player:
                raise UsageError(
                    f"The {other} and the {player} share the weight {name}: give each its own, by deepcopy."
                )


def check_optimizers(gan: GAN, trainer: Any) -> None:
    """Check what ``configure_optimizers`` has returned, which a subclass may override.

    Raises:
        UsageError: it is not G's optimizer and D's, in this order, nobody trains a weight of the game, or a schedule
            waits for a metric.
    """
    weights = [{id(w) for group in o.param_groups for w in group["params"]} for o in trainer.optimizers]
    g, d = (set(map(id, gan.game.weights_of(name))) for name in PLAYERS)
    if len(weights) != 2 or not (weights[0] & g and weights[1] & d) or weights[0] & d or weights[1] & g:
        raise UsageError(
            "configure_optimizers must return the generator's optimizer and the discriminator's, in order."
        )
    known = g | d | weights[0] | weights[1]
    for name, weight in gan.game.named_parameters():
        if weight.requires_grad and id(weight) not in known:
            raise UsageError(
                f"No player trains the game's {name}: name its module in Game.players(), or give it "
                "requires_grad=False."
            )
    if any(isinstance(scheduler, ReduceLROnPlateau) for scheduler in gan.stepped()):
        raise UsageError(
            "ReduceLROnPlateau waits for a metric, but schedules are stepped after every round: choose one that is "
            "a function of the step."
        )


def without_numpy(value: Any) -> Any:
    """A description of the data with NumPy's numbers and arrays as Python's, which checkpoints can hold."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, dict):
        return {name: without_numpy(part) for name, part in value.items()}
    return type(value)(map(without_numpy, value)) if type(value) in (list, tuple) else value


def measured(trainer: Any) -> dict[str, float]:
    """The last validation's metrics by name."""
    return {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("val/")}


def total_steps(trainer: Any) -> int:
    """The number of generator updates of the whole run, by the limit that is reached first.

    Raises:
        UsageError: the run has no end.
    """
    epochs = -1 if trainer.max_epochs is None else trainer.max_epochs
    if trainer.max_steps < 0 and epochs < 0:
        raise UsageError("A schedule needs the run's length: set trainer.max_steps or trainer.max_epochs.")
    if not hasattr(trainer.datamodule, "rounds_in_epoch"):
        steps = trainer.estimated_stepping_batches  # -1 or infinite for a loader without length
        if not 0 <= steps < math.inf:
            raise UsageError("A schedule needs the run's length, and this loader has none: set max_steps.")
        return int(steps)
    limits = [trainer.max_steps] if trainer.max_steps >= 0 else []
    if epochs >= 0:
        limits.append(epochs * trainer.datamodule.rounds_in_epoch())
    return min(limits)


def not_finite(checkpoint: dict[str, Any], exempt: Collection[str] = ()) -> str | None:
    """The name of a weight, buffer or optimizer state of a checkpoint that is not finite; None if all are."""
    state = checkpoint["state_dict"].items()
    named = {name: value.nan_to_num(math.nan, 0.0, 0.0) if name in exempt else value for name, value in state}
    for player, optimizer in zip(PLAYERS, checkpoint["optimizer_states"], strict=False):
        for index, state in optimizer["state"].items():
            named |= {f"The {player}'s optimizer state {key} of weight {index}": v for key, v in state.items()}
    named = {name: t for name, t in named.items() if isinstance(t, Tensor) and t.is_floating_point() and t.numel()}
    if not named:
        return None
    largest = torch.stack([norm.cpu().double() for norm in torch._foreach_norm(list(named.values()), math.inf)])
    return next((name for name, norm in zip(named, largest.tolist(), strict=True) if not math.isfinite(norm)), None)
