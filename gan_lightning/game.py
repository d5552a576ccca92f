"""The mathematics of the game between a generator and a discriminator, in plain PyTorch."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm

from gan_lightning.augment import Augment
from gan_lightning.batch import Batch, concatenate
from gan_lightning.checks import SIZE, check_values
from gan_lightning.diversity import last_layer
from gan_lightning.errors import UsageError
from gan_lightning.labels import is_conditional
from gan_lightning.losses import Loss, NonSaturating
from gan_lightning.priors import Prior
from gan_lightning.regularizers import CriticPass, Regularizer
from gan_lightning.replay import Replay


class Terms(NamedTuple):
    """The results of one player's update.

    ``losses`` are the scalar terms of its loss by name, whose sum it minimizes; ``outputs`` are D's outputs on the
    batches ``real`` and ``fake``.
    """

    losses: dict[str, Tensor]
    outputs: dict[str, Tensor]


class Game(nn.Module):
    """G(z) against D(x): what each player sees and minimizes, not how it is optimized.

    With ``packing`` m > 1, D judges m samples, concatenated along their first dimension, by one logit (Lin et al. 2018,
    PacGAN); its ``sample_shape`` is (m * shape[0], *shape[1:]).

    Other games are subclasses that override what differs. A network with ``conditional = True``, as an attribute of the
    object or its class, is called with the batch's y as its second argument. A discriminator with ``samplewise = True``
    judges each sample independently and without random numbers, so it receives real and fake samples in one pass, which
    is faster for small layers, but not for convolutions.
    """

    translates = False  # whether y is an image of the samples' shape that G translates
    judges_packs = True  # whether one logit can replace D's outputs for several samples
    judges_pairs = False  # whether D sees each sample with another tensor that must match it
    averaged: tuple[str, ...] = ("generator",)  # the modules that make samples, whose weights may be averaged
    # the names of each player's terms without its regularizers
    own_terms: Mapping[str, tuple[str, ...]] = {"generator": ("adversarial",), "discriminator": ("adversarial",)}

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        prior: Prior,
        loss: Loss | None = None,
        regularizers: Mapping[str, Regularizer] | None = None,
        generator_regularizers: Mapping[str, Regularizer] | None = None,
        packing: int = 1,
        augment: Augment | None = None,
    ) -> None:
        super().__init__()
        for name, part, example in (("prior", prior, "Normal(64)"), ("loss", loss or NonSaturating(), "Hinge()")):
            if not isinstance(part, nn.Module):
                raise UsageError(f"{name} is {part!r}: give a torch.nn.Module, such as {example}.")
        for name, parts in (("regularizers", regularizers), ("generator_regularizers", generator_regularizers)):
            if not isinstance(parts, Mapping | nn.ModuleDict | None):
                raise UsageError(f"{name} is {parts!r}: give a dict of names, such as {{'r1': R1(0.1)}}.")
        self.packing = packing
        check_values(self, packing=SIZE)
        if packing > 1 and (not self.judges_packs or is_conditional(discriminator)):
            raise UsageError(
                f"model.packing is {packing}, but this discriminator judges whether each sample fits its class or "
                "codes, which one output for several samples cannot do: give model.packing=1, or an unconditional "
                "discriminator in game=standard, bigan or san."
            )
        self.generator = generator
        self.discriminator = discriminator
        self.prior = prior
        self.loss = loss or NonSaturating()
        self.regularizers = nn.ModuleDict(regularizers or {})
        self.generator_regularizers = nn.ModuleDict(generator_regularizers or {})
        self.augment = augment
        if augment is not None:
            self._check_augment(augment)
        for player, chosen in (("discriminator", regularizers), ("generator", generator_regularizers)):
            for name, regularizer in (chosen or {}).items():
                if name in self.own_terms[player]:
                    raise UsageError(
                        f"The {player}'s regularizer {name} has the name of a term of its loss: rename it."
                    )
                regularizer.check(self, player)

    @classmethod
    def network_options(
        cls, network: str, sample_shape: tuple[int, ...], classes: int, **options: Any
    ) -> dict[str, Any]:
        """Arguments for the constructor of ``network`` in addition to its own options.

        ``options`` are those of the game, and its ``prior``. A constructor may accept ``sample_shape`` and ``classes``;
        it must accept everything that a game adds.
        """
        return {"sample_shape": sample_shape, "classes": classes}

    @property
    def is_conditional(self) -> bool:
        """Whether a network of the game is called with y."""
        return any(map(is_conditional, self.children()))

    @property
    def is_compiled(self) -> bool:
        """Whether D is compiled, by ``compile_networks`` or by torch.compile(network)."""
        return self.discriminator._compiled_call_impl is not None or "_orig_mod" in self.discriminator._modules

    def players(self) -> dict[str, list[nn.Module]]:
        """The modules whose weights each player's optimizer updates."""
        return {"generator": [self.generator], "discriminator": [self.discriminator]}

    def weights_of(self, player: str) -> list[nn.Parameter]:
        """A player's weights, each once even if its networks share it."""
        return list(nn.ModuleList(self.players()[player]).parameters())

    def sampled(self) -> nn.ModuleDict:
        """The modules that make samples."""
        return nn.ModuleDict({name: getattr(self, name) for name in self.averaged})

    def prepare(self, real: Batch) -> Batch:
        """Prepare a real batch for D; called before G's step if the updates are simultaneous."""
        return real

    def generate(self, z: Tensor, y: Tensor | None = None) -> Batch:
        """G's samples for latents z (N, latent_size) under conditions y, in training those of the real batch."""
        return Batch(_call(self.generator, z, y), y, z)

    def read(self, sample: Batch) -> Tensor:
        """D's outputs in float32 or float64: logits (N,), or (N, outputs), of which the first is the logit.

        For packs, the shape is (ceil(N / packing),). In training, samples are augmented if there is an augmentation.
        """
        x = sample.x if self.augment is None else self.augment(sample.x)
        x = x if self.packing == 1 else packs(x, self.packing)
        outputs = _call(self.discriminator, x, sample.y)
        if not isinstance(outputs, Tensor):
            raise UsageError(f"The discriminator returns a {type(outputs).__name__}: return one tensor of logits (N,).")
        return outputs.float() if outputs.dtype.itemsize < 4 else outputs

    def judge(self, sample: Batch) -> Tensor:
        """D's logits (N,), or one per pack."""
        return _logits(self.read(sample))

    def features(self, sample: Batch) -> Tensor:
        """D's features (N, d), the inputs of its last layer."""
        seen: list[Tensor] = []
        with last_layer(self.discriminator).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
            self.read(sample)
        return seen[-1].flatten(1)

    def discriminator_terms(self, real: Batch, fake: Batch, update: int) -> Terms:
        """The terms of D's loss in its update number ``update``, from 0."""
        due = _due(self.regularizers, update)
        with self._penalizing(due, real.x.device.type) if due else nullcontext():
            if due:
                real, fake = _requiring_gradient(real, real.x.dtype), _requiring_gradient(fake, real.x.dtype)
            at = {part.at for part in due.values() if part.at}
            read = self._one_pass if self._is_together(due, at, real, fake) else self._passes
            outputs, replays = read(due, real=real, fake=fake)
            real_logits, fake_logits = _logits(outputs["real"]), _logits(outputs["fake"])
            losses = self.loss.discriminator(real_logits=real_logits, fake_logits=fake_logits)
            terms = {"adversarial": losses.mean()}
            if due:
                logits = real_logits, fake_logits
                critic = CriticPass(real, fake, *logits, self.judge, self.features, replays, at, self.packing)
                terms |= _penalties(due, critic)
        if self.augment is not None:
            self.augment.observe(real_logits.detach() - self.loss.threshold, len(real.x))
        return Terms(terms, outputs)

    def generator_terms(self, real: Batch, fake: Batch, update: int) -> Terms:
        """The terms of G's loss in its update number ``update``, from 0."""
        due = _due(self.generator_regularizers, update)
        with self._penalizing(due, real.x.device.type) if due else nullcontext():
            if due:
                fake = fake._replace(x=fake.x.to(real.x.dtype))
            seen = {"fake": fake, "real": real} if self.loss.generator_needs_real else {"fake": fake}
            outputs, replays = self._passes(due, **seen)
            fake_logits, real_logits = _logits(outputs["fake"]), None
            if self.loss.generator_needs_real:
                real_logits = _logits(outputs["real"])
            losses = self.loss.generator(real_logits=real_logits, fake_logits=fake_logits)
            terms = {"adversarial": losses.mean()}
            if due:
                logits = real_logits, fake_logits
                critic = CriticPass(real, fake, *logits, self.judge, self.features, replays, packing=self.packing)
                terms |= _penalties(due, critic)
        return Terms(terms, outputs)

    def describe(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values to log: the mean of D(x), D's accuracy, and those of ``augment``."""
        real, fake = (_logits(outputs[name].detach()) for name in ("real", "fake"))
        real_is_right = (real > self.loss.threshold).float().mean()
        fake_is_right = (fake <= self.loss.threshold).float().mean()
        described = {
            "discriminator/real": self.loss.output(real).mean(),
            "discriminator/fake": self.loss.output(fake).mean(),
            "discriminator/accuracy": 0.5 * (real_is_right + fake_is_right),
        }
        return described if self.augment is None else described | self.augment.describe()

    def metrics(self, data: Any) -> dict[str, Any]:
        """Additional validation metrics specific to this game, by name; ``data`` is the data module."""
        return {}

    def illustrate(self, z: Tensor, real: Batch) -> Tensor:
        """Samples in rows, (rows, columns, *sample_shape), that illustrate this game, from latents or held-out data."""
        raise TypeError(f"{type(self).__name__} must define what a picture of it shows")

    def compile_networks(self) -> None:
        """Compile the players' networks in place, so that names in checkpoints do not change.

        Raises:
            UsageError: D is spectrally normalized; compiled, its power iteration overwrites what backward needs.
        """
        if any(isinstance(part, _SpectralNorm) for part in self.discriminator.modules()):
            raise UsageError(
                "With a spectrally normalized discriminator, such as by model.spectral_norm=true, the networks cannot "
                "be compiled: leave out trainer.compile."
            )
        if any(part.passes_again for part in (*self.regularizers.values(), *self.generator_regularizers.values())):
            from torch._functorch import config

            config.donated_buffer = False  # the loss's backward pass needs the graph after the penalty's
        # on a GPU, torch 2.11 assumes strides of gradients that cuDNN does not return
        options = {"options": {"layout_optimization": False}} if torch.cuda.is_available() else {}
        for networks in self.players().values():
            for network in networks:
                network.compile(**options)

    def _check_augment(self, augment: Augment) -> None:
        if self.judges_pairs:
            raise UsageError(
                f"game={type(self).__name__.lower()} shows pairs to the discriminator, but augmentation would change "
                "only one half of each: choose augment=none."
            )
        if augment.follows_logits and self.loss.is_shift_invariant:
            raise UsageError(
                f"augment={type(augment).__name__.lower()} adjusts p by the sign of D's outputs on real samples, but "
                f"loss={type(self.loss).__name__.lower()} determines only their differences: choose another loss, or a "
                "fixed p by augment.target=null augment.p=0.3."
            )

    def _passes(self, due: Mapping[str, Regularizer], **batches: Batch) -> tuple[dict[str, Tensor], dict[str, Replay]]:
        """D's outputs on batches by name, and the replays of these passes, if a due penalty needs them."""
        outputs: dict[str, Tensor] = {}
        replays: dict[str, Replay] = {}
        again = any(part.passes_again for part in due.values())
        for name, batch in batches.items():
            if again:
                replays[name] = Replay(self.discriminator, batch.x.device)
            outputs[name] = self.read(batch)
        return outputs, replays

    def _is_together(self, due: Mapping[str, Regularizer], at: Collection[str], *batches: Batch) -> bool:
        """Whether D may judge these batches in one pass at no extra cost.

        A gradient at one of them alone would go through both, and a compiled network would compile for two sizes. A
        game whose ``read`` is its own may need latents that only one of them has.
        """
        may = is_samplewise(self.discriminator) and self.augment is None and not self.is_compiled
        needed = [(batch.y, None if type(self).read is Game.read else batch.z) for batch in batches]
        may = may and all(len({part is None for part in parts}) == 1 for parts in zip(*needed, strict=True))
        return may and len(at) != 1 and not any(part.passes_again for part in due.values())

    def _one_pass(
        self, due: Mapping[str, Regularizer], **batches: Batch
    ) -> tuple[dict[str, Tensor], dict[str, Replay]]:
        """``_passes`` by a single pass over batches of equal size, if no penalty needs replays."""
        parts = list(batches.values())
        if type(self).read is Game.read:
            parts = [part._replace(z=None) for part in parts]
        outputs = self.read(concatenate(parts)).chunk(len(parts))
        return dict(zip(batches, outputs, strict=True)), {}

    @contextmanager
    def _penalizing(self, due: Mapping[str, Regularizer], device: str) -> Iterator[None]:
        """Disable autocast unless it is bfloat16 and all penalties allow it; run eagerly if one needs it."""
        is_eager = self.is_compiled and any(part.differentiates_twice for part in due.values())
        stance = torch.compiler.set_stance("force_eager") if is_eager else nullcontext()
        is_bfloat16 = torch.get_autocast_dtype(device) == torch.bfloat16
        stays = is_bfloat16 and all(part.allows_bfloat16 for part in due.values())
        with nullcontext() if stays else torch.autocast(device, enabled=False), stance:
            yield


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Put the networks in evaluation mode inside the context, and restore their modes on exit."""
    modes = [network.training for network in networks]
    parts = [(part, part.training) for network in networks for part in network.modules()]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for network, mode in zip(networks, modes, strict=True):
            network.train(mode)
        for part, mode in parts:  # of which a user may keep some in evaluation mode
            part.training = mode


@contextmanager
def standing_in(game: Game, networks: Mapping[str, nn.Module]) -> Iterator[None]:
    """Replace the game's modules of these names inside the context, in evaluation mode, and restore them on exit."""
    former = {name: getattr(game, name) for name in networks}
    for name, network in networks.items():
        setattr(game, name, network)
    try:
        with evaluating(*networks.values()):
            yield
    finally:
        for name, network in former.items():
            setattr(game, name, network)


def check_outputs(outputs: Tensor, n: int, what: str) -> None:
    """Raise a UsageError if D's outputs are not (N, n)."""
    if outputs.dim() != 2 or outputs.shape[1] != n:
        raise UsageError(f"The discriminator gives outputs {tuple(outputs.shape)}, but (N, {n}) is expected: {what}.")


def packs(x: Tensor, m: int) -> Tensor:
    """Pack samples (N, channels, ...) by m, (ceil(N / m), m * channels, ...); the first ones complete the last pack."""
    n = len(x)
    if n % m:
        x = x[torch.arange(n + -n % m, device=x.device) % n]
    return x.unflatten(0, (-1, m)).flatten(1, 2)


def is_samplewise(network: nn.Module) -> bool:
    """Whether a network's output for each sample depends on this sample alone and on no random number."""
    return bool(network.__dict__.get("samplewise", getattr(type(network), "samplewise", False)))


def _call(network: nn.Module, x: Tensor, y: Tensor | None) -> Tensor:
    if not is_conditional(network):
        return network(x)
    if y is None:
        raise UsageError("The networks are conditional, but a batch has no labels: give batches (x, y).")
    return network(x, y)


def _logits(outputs: Tensor) -> Tensor:
    if outputs.dim() == 1:
        return outputs
    if outputs.dim() > 2 and outputs.shape[1] == 1:  # of convolutions, one or one for each patch
        return outputs.flatten()
    if outputs.dim() != 2:
        raise UsageError(
            f"The discriminator gives {tuple(outputs.shape)}: return logits (N,), or (N, outputs), whose first is the "
            "logit; several for each sample, one per patch, by outputs.flatten()."
        )
    return outputs[:, 0]


def _due(regularizers: nn.ModuleDict, update: int) -> dict[str, Regularizer]:
    if not len(regularizers):
        return {}
    return {name: regularizer for name, regularizer in regularizers.items() if regularizer.is_due(update)}  # type: ignore[misc, operator]


def _penalties(due: Mapping[str, Regularizer], critic: CriticPass) -> dict[str, Tensor]:
    return {name: regularizer(critic).mean() for name, regularizer in due.items()}


def _requiring_gradient(batch: Batch, dtype: torch.dtype) -> Batch:
    return batch._replace(x=batch.x.detach().to(dtype).requires_grad_())
