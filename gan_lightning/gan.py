"""The adversarial step: the one place where two optimizers train two networks."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, get_args

import torch
from lightning import LightningModule
from lightning.pytorch.plugins.precision import DoublePrecision, MixedPrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric, MetricCollection

from gan_lightning.data.loader import RealData, stream_seed
from gan_lightning.ema import MovingAverage
from gan_lightning.errors import Diverged, UsageError
from gan_lightning.losses import Loss
from gan_lightning.priors import Prior
from gan_lightning.regularizers import CriticPass, Regularizer

Order = Literal["discriminator_first", "generator_first", "simultaneous"]
ADVICE = (
    "training stopped and the last good checkpoint stays; lower the learning rates, clip the gradients "
    "(trainer.gradient_clip_val=1) or add a penalty (regularizer=r1)."
)
VALIDATION_SEED = 2014  # validation draws its latents from a stream of its own, the same at every step


@contextmanager
def frozen(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """The weights take no gradient inside, whatever is raised; those that took none before take none after."""
    weights = [weight for weight in weights if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network is in evaluation mode inside and in its former mode after."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


class Player:
    """One of the game's two networks while it trains: what every update of it needs at hand."""

    def __init__(self, name: str, network: nn.Module, optimizer: Optimizer) -> None:
        self.name = name
        self.optimizer = optimizer
        self.weights = list(network.parameters())
        # a fused step on a state of another layout, as a checkpoint may have it, mixes up the elements and says nothing
        for weight, state in optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
        self.updates = 0
        self.loss = torch.empty(0)  # of its last update

    def forget_gradients(self) -> None:
        """What optimizer.zero_grad does, without the profiler's mark, which costs a toy more than the act."""
        for weight in self.weights:
            weight.grad = None


class GAN(LightningModule):
    """A generator and a discriminator that train each other.

    One round is ``critic_steps`` updates of the discriminator, each on fresh real data, and one of the generator; a
    batch of shape (rounds, critic_steps, accumulate_grad_batches, N, *sample_shape) carries whole rounds.
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
        generator: nn.Module,
        discriminator: nn.Module,
        loss: Loss,
        prior: Prior,
        generator_optimizer: Callable[..., Optimizer],
        discriminator_optimizer: Callable[..., Optimizer],
        *,
        regularizers: Sequence[Regularizer] = (),
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
            raise ValueError(f"model.order is {order!r}: choose one of {', '.join(get_args(Order))}.")
        self.automatic_optimization = False
        self.generator = generator
        self.discriminator = discriminator
        self.average = MovingAverage(generator, ema_decay, ema_warmup) if ema_decay else None
        self.loss = loss
        self.prior = prior
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.regularizers = tuple(regularizers)
        self.schedule = schedule
        self.critic_steps = critic_steps
        self.order = order
        self.reuse_fakes = reuse_fakes
        self.gradient_clip_val = gradient_clip_val
        self.gradient_clip_algorithm = gradient_clip_algorithm
        self.accumulate_grad_batches = accumulate_grad_batches
        self.config: dict[str, Any] = {}  # the run's resolved configuration, a passenger of the checkpoint
        self.validation_seed = VALIDATION_SEED
        self.loaded_step = 0  # of the checkpoint that build.load read
        self.register_buffer("images_seen", torch.zeros((), dtype=torch.int64))
        self.images_seen: Tensor
        self._is_compiled = False
        self.log_step = -1  # of the last line of the log
        self.log_line: dict[str, float] = {}  # for progress bars too: self.log costs more than a toy's updates
        self.validated_step = -1  # the global step of the last validation
        self._saved_streams: dict[str, Any] | None = None
        self._losses: list[tuple[Tensor, Tensor]] = []  # (L_D, L_G) of every round since the last line of the log
        self._observed: dict[str, Tensor] = {}  # what a line of the log shows of its round, besides the losses

    # ------------------------------------------------------------------------------------------------ sampling

    @property
    def sampler(self) -> nn.Module:
        """The averaged generator, or the generator itself where none is kept."""
        return self.generator if self.average is None else self.average.network

    @torch.no_grad()
    def sample(
        self, n: int, generator: torch.Generator | None = None, *, latents: Tensor | None = None, raw: bool = False
    ) -> Tensor:
        """n samples, (n, *sample_shape), of the averaged generator, or of the raw one, in evaluation mode."""
        if latents is None:
            generator = generator or torch.Generator(self.device).manual_seed(int(torch.randint(2**31, ())))
            latents = self.prior.sample(n, generator)
        network = self.generator if raw else self.sampler
        with evaluating(network):
            return network(latents.to(self.device).to(self.dtype))

    # ---------------------------------------------------------------------------------------------- the step

    def compile_networks(self) -> None:
        """Compile both networks in place, so that a checkpoint's names stay as they are."""
        self.generator.compile()
        self.discriminator.compile()
        self._is_compiled = True

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        """Train the rounds that the batch carries."""
        self._batch_size = batch.shape[3]
        micro_batches, n = batch.flatten(0, 2).unbind(), self.accumulate_grad_batches
        updates = [micro_batches[i : i + n] for i in range(0, len(micro_batches), n)]
        for first in range(0, len(updates), self.critic_steps):
            step = self.trainer.global_step
            self._is_logging = (step + 1) % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
            self._d.updates = step * self.critic_steps
            self._round(updates[first : first + self.critic_steps])
            self._after_round(step)
        self.images_seen += batch.shape[:4].numel() * self.trainer.world_size
        # Lightning's own loggers count batches: make them count generator updates
        self.trainer.fit_loop.epoch_loop._batches_that_stepped = self.trainer.global_step

    def _round(self, reals: Sequence[Sequence[Tensor]]) -> None:
        """``critic_steps`` updates of D, on reals[0], reals[1], ..., and one of G, in the chosen order."""
        if self.order == "generator_first":
            shared = self._fakes() if self.reuse_fakes else None
            self._update_generator(reals[0], shared)
            self._update_discriminator(reals[0], shared)
            for real in reals[1:]:
                self._update_discriminator(real)
            return
        for real in reals[:-1]:
            self._update_discriminator(real)
        shared = self._fakes() if self.reuse_fakes else None
        if self.order == "simultaneous":
            # D's gradient needs G only through its samples: draw them first, then G may step before D
            fakes = shared or self._fakes(graph=False)
            self._update_generator(reals[-1], shared)
            self._update_discriminator(reals[-1], fakes)
        else:
            self._update_discriminator(reals[-1], shared)
            self._update_generator(reals[-1], shared)

    def _update_discriminator(self, reals: Sequence[Tensor], fakes: list[Tensor] | None = None) -> None:
        """One step of D on micro-batches of real samples, (N, *sample_shape) each, and as many of G's."""
        due = [regularizer for regularizer in self.regularizers if regularizer.is_due(self._d.updates)]
        losses = []
        self._d.forget_gradients()
        for i, real in enumerate(reals):
            fake = fakes[i].detach() if fakes else self._fake(graph=False)
            with self._twice_differentiable() if due else nullcontext():
                losses.append(self._backward(self._discriminator_loss(real, fake, due)))
        self._step(self._d)
        self._d.updates += 1
        self._d.loss = _total(losses)

    def _discriminator_loss(self, real: Tensor, fake: Tensor, due: Sequence[Regularizer]) -> Tensor:
        """The mean over the batch of D's loss and of the penalties that are due."""
        if due:
            real, fake = real.detach().requires_grad_(), fake.to(real.dtype).requires_grad_()
        real_logits, fake_logits = self._logits(real), self._logits(fake)
        losses = self.loss.discriminator(real_logits=real_logits, fake_logits=fake_logits)
        for regularizer in due:
            losses = losses + regularizer(CriticPass(real, fake, real_logits, fake_logits, self.discriminator))
        if self._is_logging:
            self._observe(real_logits.detach(), fake_logits.detach())
        return losses.mean()

    def _update_generator(self, reals: Sequence[Tensor], fakes: list[Tensor] | None = None) -> None:
        """One step of G through the frozen D, against the real samples where the loss compares with them."""
        losses = []
        self._g.forget_gradients()
        # cheaper than toggle_optimizer, and D's weight gradients are not even computed
        with frozen(self._d.weights):
            for i, real in enumerate(reals):
                fake_logits = self._logits(fakes[i] if fakes else self._fake())
                real_logits = self._logits(real) if self.loss.generator_needs_real else None
                loss = self.loss.generator(real_logits=real_logits, fake_logits=fake_logits).mean()
                losses.append(self._backward(loss))
        self._step(self._g)
        # LightningOptimizer.step would count D's steps too: a global step is a step of G
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()
        progress.increment_completed()
        self._g.loss = _total(losses)

    def _backward(self, loss: Tensor) -> Tensor:
        """Add the gradient of a micro-batch's share in the update's loss, and return that share."""
        if self.accumulate_grad_batches > 1:
            loss = loss / self.accumulate_grad_batches
        if self._is_bare:
            loss.backward()
        else:
            self.manual_backward(loss)
        return loss.detach()

    def _step(self, player: Player) -> None:
        if self._is_bare:
            self.on_before_optimizer_step(player.optimizer)
            player.optimizer.step()
        else:
            with self.trainer.profiler.profile("optimizer_step"):  # type: ignore[attr-defined]
                self.trainer.strategy.optimizer_step(player.optimizer, _no_closure, self)

    def _lightning_adds_nothing(self) -> bool:
        """Whether backward passes and steps may do without Lightning's wrappers, which cost a toy GAN half its time.

        True on one device, without a gradient scaler and a profiler, where nobody listens to what they announce.
        """
        trainer: Any = self.trainer
        hooks = ("on_before_backward", "on_after_backward", "on_before_optimizer_step")
        own = ("backward", "on_before_backward", "on_after_backward")  # the third is called here
        return (
            type(trainer.strategy) is SingleDeviceStrategy
            and type(trainer.precision_plugin) in (Precision, MixedPrecision, DoublePrecision)
            and getattr(trainer.precision_plugin, "scaler", None) is None
            and type(trainer.profiler) is PassThroughProfiler
            and not any(is_overridden(hook, callback) for hook in hooks for callback in trainer.callbacks)
            and not any(is_overridden(method, self) for method in own)
        )

    def _after_round(self, step: int) -> None:
        """What follows G's step: its average, the schedules, a line of the log when one is due."""
        if self.average is not None:
            self.average.update(step)
        if self.schedule is not None:
            for config in self.trainer.lr_scheduler_configs:
                config.scheduler.step()  # type: ignore[call-arg]
        self._losses.append((self._d.loss, self._g.loss))
        if self._is_logging:
            self._log_line()

    def _logits(self, x: Tensor) -> Tensor:
        logits = self.discriminator(x)
        return logits.float() if logits.dtype.itemsize < 4 else logits

    def _fake(self, graph: bool = True) -> Tensor:
        """N new samples of G, with its graph or without."""
        with nullcontext() if graph else torch.no_grad():
            return self.generator(self._draw_latents())

    def _fakes(self, graph: bool = True) -> list[Tensor]:
        """New samples for all the micro-batches of one update."""
        return [self._fake(graph) for _ in range(self.accumulate_grad_batches)]

    def _draw_latents(self) -> Tensor:
        """This rank's part of one draw for all ranks, so that k devices see the noise that one would see."""
        n, ranks = self._batch_size, self.trainer.world_size
        latents = self.prior.sample(n * ranks, self._noise).to(self.dtype)
        return latents.narrow(0, self.global_rank * n, n)

    @contextmanager
    def _twice_differentiable(self) -> Iterator[None]:
        """For a penalty, whose second differentiation neither half precision nor a compiled network survives."""
        eager = torch.compiler.set_stance("force_eager") if self._is_compiled else nullcontext()
        with torch.autocast(self.device.type, enabled=False), eager:
            yield

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip, after unscaling under fp16, which Lightning leaves to a fused optimizer's own step."""
        if self.gradient_clip_val is None and not self._is_logging:
            return
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)
        player = self._g if optimizer is self._g.optimizer else self._d
        if self._is_logging:
            gradients = [weight.grad for weight in player.weights if weight.grad is not None]
            self._observed[f"gradient_norm/{player.name}"] = nn.utils.get_total_norm(gradients)
        if self.gradient_clip_val is None:
            return
        if self.gradient_clip_algorithm == "norm":
            nn.utils.clip_grad_norm_(player.weights, self.gradient_clip_val)
        else:
            nn.utils.clip_grad_value_(player.weights, self.gradient_clip_val)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """G's and D's optimizer, in this order, and their schedules over the whole run."""
        optimizers = [
            self.generator_optimizer(self.generator.parameters()),
            self.discriminator_optimizer(self.discriminator.parameters()),
        ]
        if self.schedule is None:
            return optimizers
        return optimizers, [self.schedule(optimizer, self._total_steps()) for optimizer in optimizers]

    def _total_steps(self) -> int:
        """The generator updates of the whole run, by whichever limit ends it first.

        Raises:
            UsageError: the run has no end.
        """
        trainer, data = self.trainer, self._data
        limits = [trainer.max_steps] if trainer.max_steps >= 0 else []
        if trainer.max_epochs is not None and trainer.max_epochs >= 0:
            batches = math.ceil(data.rounds_per_epoch / data.rounds_per_batch)
            share = trainer.limit_train_batches
            batches = int(batches * share) if isinstance(share, float) else min(batches, share)
            limits.append(trainer.max_epochs * min(batches * data.rounds_per_batch, data.rounds_per_epoch))
        if not limits:
            raise UsageError("A schedule needs the run's length: set trainer.max_steps or trainer.max_epochs.")
        return min(limits)

    # --------------------------------------------------------------------------------------------- the log

    def _observe(self, real_logits: Tensor, fake_logits: Tensor) -> None:
        real_is_right = (real_logits > self.loss.threshold).float().mean()
        fake_is_right = (fake_logits <= self.loss.threshold).float().mean()
        self._observed["discriminator/real"] = self.loss.output(real_logits).mean()
        self._observed["discriminator/fake"] = self.loss.output(fake_logits).mean()
        self._observed["discriminator/accuracy"] = 0.5 * (real_is_right + fake_is_right)

    def _log_line(self) -> None:
        """Mean losses since the last line, and what was observed in this round."""
        loss_of_d, loss_of_g = self._finite_losses().mean(0)
        observed = {"loss/discriminator": loss_of_d, "loss/generator": loss_of_g, **self._observed}
        self._losses.clear()
        # one transfer from the device for all of them
        values = dict(zip(observed, torch.stack([v.float() for v in observed.values()]).tolist(), strict=True))
        values["learning_rate/generator"] = self._g.optimizer.param_groups[0]["lr"]
        values["learning_rate/discriminator"] = self._d.optimizer.param_groups[0]["lr"]
        for logger in self.loggers:
            logger.log_metrics(values, step=self.trainer.global_step)
        self.trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})
        self.log_step, self.log_line = self.trainer.global_step, values

    def _finite_losses(self) -> Tensor:
        """The losses since the last line of the log, means over ranks, (rounds, 2).

        Raises:
            Diverged: one of them is not finite.
        """
        flat = torch.stack([loss for pair in self._losses for loss in pair])
        losses = self.trainer.strategy.reduce(flat.view(-1, 2), reduce_op="mean")
        assert isinstance(losses, Tensor)
        broken = (~losses.isfinite()).nonzero()
        if len(broken):
            row, column = broken[0].tolist()
            step = self.trainer.global_step - len(losses) + row + 1
            raise Diverged(
                f"The {('discriminator', 'generator')[column]}'s loss is {losses[row, column].item()} at step {step}: "
                f"{ADVICE}"
            )
        return losses

    # ------------------------------------------------------------------------------------------- validation

    @property
    def _data(self) -> RealData:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def setup(self, stage: str) -> None:
        """Take the metrics that know the data's truth from the data module."""
        self.metrics = MetricCollection(dict(self._data.metrics()), prefix="val/")
        self.value = MeanMetric()

    def on_validation_epoch_start(self) -> None:
        self._validation_noise = torch.Generator(self.device).manual_seed(self.validation_seed + self.global_rank)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Compare the averaged generator's samples with held-out real ones, both (N, *sample_shape)."""
        fake = self.sample(len(batch), self._validation_noise)
        self.metrics.update(fake, batch)
        if self.loss.is_probability:
            self.value.update(-softplus(-self._logits(batch)) - softplus(self._logits(fake)))

    def on_validation_epoch_end(self) -> None:
        # some metrics compute on the CPU, and NCCL reduces only what is on the device
        values = {name: value.to(self.device) for name, value in self.metrics.compute().items()}
        self.metrics.reset()
        if self.loss.is_probability:
            # V(D, G) = E log D(x) + E log(1 - D(G(z))), which at the equilibrium is -log 4 (Goodfellow et al. 2014)
            values["val/value"] = self.value.compute()
            self.value.reset()
        if self.trainer.sanity_checking:
            return  # it was to be seen that all this works
        self.validated_step = self.trainer.global_step
        self.log_dict(values, prog_bar=True, logger=False, sync_dist=True)  # they agree already
        if "val/value" in values:
            values["val/value_bound"] = torch.tensor(-math.log(4))  # a line beside the curve
        for logger in self.loggers:
            logger.log_metrics(values, step=self.trainer.global_step)

    # ------------------------------------------------------------------------------- checkpoints and resume

    def on_train_start(self) -> None:
        """Take the optimizers, and start this rank's random streams or go on with the checkpoint's."""
        generator_step, discriminator_step = (optimizer.optimizer for optimizer in self.optimizers())  # type: ignore[union-attr]
        self._g = Player("generator", self.generator, generator_step)
        self._d = Player("discriminator", self.discriminator, discriminator_step)
        if self.average is not None:
            self.average.follow(self.generator)
        seed = torch.initial_seed()
        self._noise = torch.Generator(self.device).manual_seed(seed)
        torch.manual_seed(stream_seed(seed, "rank", self.global_rank, self.trainer.global_step))
        saved = self._saved_streams
        if saved is not None and saved["device"] == self.device.type and self.global_rank < len(saved["ranks"]):
            self._noise.set_state(saved["noise"])
            cpu, *device = saved["ranks"][self.global_rank]
            torch.set_rng_state(cpu)
            for state in device:
                torch.cuda.set_rng_state(state, self.device)
        self._saved_streams = None
        self._is_bare = self._lightning_adds_nothing()
        # loaded before the module was moved
        self._losses = [(of_d.to(self.device), of_g.to(self.device)) for of_d, of_g in self._losses]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the configuration and every rank's random state, all in plain containers.

        Raises:
            Diverged: a loss or a weight is not finite, so the last good checkpoint must stay.
        """
        losses = self._finite_losses() if self._losses else torch.empty(0, 2)
        weights = torch.stack(torch._foreach_norm(list(self.parameters())))
        if not weights.isfinite().all():
            raise Diverged(f"A weight is no longer finite at step {self.trainer.global_step}: {ADVICE}")
        states = [torch.get_rng_state()]
        if self.device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self.device))
        streams = {"device": self.device.type, "noise": self._noise.get_state(), "ranks": _gather(states)}
        checkpoint["gan"] = {
            "config": self.config,
            "sample_shape": self._data.sample_shape,
            "losses": losses,
            "streams": streams,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._losses = [(of_d, of_g) for of_d, of_g in checkpoint["gan"]["losses"]]
        self._saved_streams = checkpoint["gan"]["streams"]


def _no_closure() -> None:
    """The gradients are there already."""


def _total(losses: list[Tensor]) -> Tensor:
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum()


def _gather(states: list[Tensor]) -> list[list[Tensor]]:
    """Every rank's states, by rank, on every rank."""
    if not torch.distributed.is_initialized():
        return [states]
    gathered: list[list[Tensor]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(gathered, states)
    return gathered
