"""Check networks and optimizers before training: run one forward pass, and create the optimizers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import islice
from types import SimpleNamespace
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.optim import SparseAdam

from gan_lightning.augment import Augment
from gan_lightning.batch import Batch, as_batch
from gan_lightning.build import is_of_package
from gan_lightning.config import one_line
from gan_lightning.data.loader import RealData
from gan_lightning.errors import UsageError
from gan_lightning.game import Game
from gan_lightning.gan import GAN, PLAYERS, check_batch, check_players, total_steps

ENOUGH = 64  # samples
BATCH_NORM = "Expected more than 1 value per channel when training"  # how torch's ValueError begins
# operations that keep values; ConstantPadNd is how feature maps are cropped
RESHAPES = {"View", "ReshapeAlias", "UnsafeView", "Squeeze", "Unsqueeze", "Flatten", "Select", "Slice"}
RESHAPES |= {"ConstantPadNd", "Alias", "ToCopy"}


def check_networks(gan: GAN, data: RealData) -> None:
    """Pass a batch, or part of a large one, through both networks; weights, buffers and random states are unchanged.

    Raises:
        UsageError: BatchNorm or a penalty receives one sample, a shape or a value is wrong, D ends in a sigmoid, or G
            does for data with negative values. Errors in the networks' own code are raised unchanged.
    """
    n = data.batch_size
    while n > ENOUGH and n % (2 * gan.game.packing) == 0:  # enough to check shapes, and saves memory
        n //= 2
    eager = torch.compiler.set_stance("force_eager") if gan.game.is_compiled else nullcontext()
    with isolate_rng(), _unchanged(gan), eager:
        _check_range(gan.game.augment, data)
        y = data.conditions(n)
        are_patches = y is not None and y.dim() > 1  # D may return a logit per patch
        _check_pairs(are_patches, gan.game.translates)
        if gan.game.is_conditional:
            _check_labels(data)
        z = gan.game.prior.sample(n).to(gan.device).to(gan.dtype)
        y = y if y is None else y.to(z if y.is_floating_point() else gan.device)
        try:
            fake = gan.game.generate(z, y)
            _check_samples(fake, (n, *data.sample_shape))
            _check_output_range(fake.x, data)
            for sample in (fake, fake._replace(z=None)):  # the second like a real sample, which has no latents
                judged = n // gan.game.packing
                _check_outputs(gan.game.read(sample), judged, gan.game, are_patches)
        except ValueError as error:
            if not str(error).startswith(BATCH_NORM):
                raise
            raise UsageError(
                f"data.batch_size is {n}: BatchNorm needs several samples in a batch: give at least 2, or networks "
                "without it."
            ) from error
    check_players(gan.game)
    check_batch(gan.game, data.batch_size, 1, 1)  # of each micro-batch


def check_optimizers(gan: GAN, trainer: Trainer, data: RealData) -> None:
    """Create, try and discard each player's optimizer and schedule; Lightning would create them after the run started.

    Raises:
        UsageError: one that is not the user's own rejects its options, or a schedule has no length.
    """
    if type(gan).configure_optimizers is not GAN.configure_optimizers:
        return  # the user's own, which may create others
    steps = 0
    if gan.schedule is not None:
        steps = total_steps(
            SimpleNamespace(max_steps=trainer.max_steps, max_epochs=trainer.max_epochs, datamodule=data)
        )
    players = gan.game.players()
    with isolate_rng():
        for name in PLAYERS:
            option = f"{name}_optimizer"
            weights = [weight for network in players[name] for weight in network.parameters()]
            make = getattr(gan, option)
            with _refusing(option, make, "be created"):
                optimizer = make(weights)
            if is_of_package(_module(make)) and not isinstance(optimizer, SparseAdam):  # which needs sparse gradients
                with _refusing(option, make, "take a step"):
                    _step_once(make, trainer.strategy.root_device)
            if gan.schedule is not None and gan.scheduled in (name, "both"):
                with _refusing("schedule", gan.schedule, "be created"):
                    gan.schedule(optimizer, steps)


@contextmanager
def _refusing(option: str, make: Callable[..., Any], action: str) -> Iterator[None]:
    """Refuse an option with which something that is not the user's own fails."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError, AssertionError) as error:
        if not is_of_package(_module(make)):
            raise
        raise UsageError(f"{option} cannot {action} ({one_line(error)}): correct its options.") from error


def _module(make: Callable[..., Any]) -> str:
    return str(getattr(make.func if isinstance(make, partial) else make, "__module__", ""))


def _step_once(make: Callable[..., Any], device: torch.device) -> None:
    """Let an optimizer step on a weight of its own."""
    weight = nn.Parameter(torch.zeros(2, 2, device=device))
    weight.grad = torch.zeros_like(weight)
    make([weight]).step()


def _check_pairs(are_pairs: bool, translates: bool) -> None:
    if are_pairs and not translates:
        raise UsageError("The data are pairs of images, input and target: choose game=pix2pix.")
    if translates and not are_pairs:
        raise UsageError(
            "game=pix2pix translates images, but the data are not pairs of images: choose data=paired_folder or "
            "data=mnist_edges."
        )


def _check_range(augment: Augment | None, data: RealData) -> None:
    wanted, found = getattr(augment, "value_range", None), getattr(data, "value_range", None)
    if wanted and found and len(data.sample_shape) == 3 and tuple(found) != wanted:
        raise UsageError(
            f"augment={type(augment).__name__.lower()} changes colors or fills with gray as defined for pixels in "
            f"{list(wanted)}, but the data's are in {list(found)}: choose data.range=signed, or augment=none."
        )


def _check_labels(data: RealData) -> None:
    if data.conditions(1) is None:
        raise UsageError("The networks are conditional, but the data has no classes: choose an unconditional model.")
    loader = data.val_dataloader() if is_overridden("val_dataloader", data) else ()
    if any(as_batch(batch).y is None for batch in islice(loader, 1)):
        raise UsageError(
            "The networks are conditional, but the held-out samples have none of the data's classes: give held-out "
            "data with the same class names, or data.validation_samples=0."
        )


def _check_samples(fake: Batch, expected: tuple[int, ...]) -> None:
    if not isinstance(fake.x, Tensor):
        raise UsageError(
            f"model.generator returns a {type(fake.x).__name__}: return one tensor of samples, {expected}."
        )
    shape = tuple(fake.x.shape)
    if shape != expected:
        raise UsageError(
            f"model.generator makes samples of shape {shape}, but the data's have shape {expected}: build it from the "
            "sample_shape that it is given."
        )
    _check_finite("generator", fake.x)


def _check_output_range(fake: Tensor, data: RealData) -> None:
    low, high = getattr(data, "value_range", None) or (0.0, 1.0)
    if low < 0 and ends_in_sigmoid(fake):
        raise UsageError(
            "model.generator ends in a sigmoid, so that its samples are in [0, 1], but the data's are in "
            f"[{low:g}, {high:g}]: choose a generator that ends in tanh, or data in [0, 1], for images by "
            "data.range=unit."
        )


def _check_outputs(outputs: Tensor, n: int, game: Game, are_patches: bool) -> None:
    shape = tuple(outputs.shape)
    # one logit per pack of samples, if they are packed, or one per patch of a pair of images
    if len(shape) not in (1, 2) or not shape[0] or (shape[0] % n if are_patches else shape[0] != n):
        judged = "sample" if game.packing == 1 else f"pack of {game.packing} samples"
        raise UsageError(
            f"model.discriminator gives {shape}, but ({n},), one logit per {judged}, or ({n}, outputs) is expected."
        )
    _check_finite("discriminator", outputs)
    if game.loss.is_probability and ends_in_sigmoid(outputs):
        raise UsageError(
            "model.discriminator ends in a sigmoid, but the loss takes logits and includes the sigmoid: leave it out."
        )


def _check_finite(network: str, values: Tensor) -> None:
    if not values.isfinite().all():
        raise UsageError(f"model.{network} gives non-finite values before training: check its initialization.")


def ends_in_sigmoid(outputs: Tensor) -> bool:
    """Whether the last operation that produced these values is a sigmoid, according to their autograd graph."""
    node = outputs.grad_fn
    while node is not None and node.name().rstrip("0123456789").removesuffix("Backward") in RESHAPES:
        node = node.next_functions[0][0]
    return node is not None and node.name().startswith("SigmoidBackward")


@contextmanager
def _unchanged(gan: GAN) -> Iterator[None]:
    """Put the networks in training mode, and restore their modes and buffers on exit."""
    modes = [(module, module.training) for module in gan.game.modules()]
    buffers = [  # by their places, since a network may assign another tensor
        (module, name, buffer, buffer.detach().clone())
        for module in gan.game.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    gan.game.train()
    try:
        with torch.enable_grad():
            yield
    finally:
        with torch.no_grad():
            for module, name, buffer, former in buffers:
                module._buffers[name] = buffer
                buffer.copy_(former)
        for module, mode in modes:
            module.training = mode
