"""Draw samples from a trained generator, or interpolate in its latent space.

    python scripts/sample.py checkpoint=RUN_FOLDER [out=samples.npz n=50000]
    gan-sample checkpoint=RUN_FOLDER, if the package is installed

mode=samples        n samples
mode=interpolation  n rows, each from one latent to another: along arcs for a normal prior, along lines for others
mode=walk           a closed walk through n latents
mode=classes        n rows at one latent each, from class to class

A conditional generator uses all classes, or classes=[cat,dog], given by name or number. Samples and interpolations
alternate between the classes, pictures have one row per class, and a walk stays in the first class.

The ending of out chooses the format:

.png .jpg .webp     one picture
.gif                an animation (not for mode=samples)
.npz .pt            the arrays samples, latents, seed and value_range; for conditional generators also labels, indices
                    into class_names; samples are float32 in the model's range, for data=array and similar in the units
                    and type of the file
.npy                the samples alone
.csv                rows, for data=table in the columns of the file; with a column class for conditional generators
none                a new folder of single images: PNG, or TIFF for data.depth=16 and data.depth=float

The same seed gives the same samples at any batch size.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from omegaconf import MISSING, OmegaConf

from gan_lightning.checks import POSITIVE, SEED, SIZE, check_values, optional
from gan_lightning.errors import UsageError
from gan_lightning.options import (
    CHECKPOINT,
    PIXELS,
    Weights,
    check_checkpoint,
    check_out,
    read_options,
    refusals,
)

if TYPE_CHECKING:
    from torch import Tensor

    from gan_lightning.data.loader import RealData
    from gan_lightning.gan import GAN
    from gan_lightning.priors import Prior

ENDINGS = (*PIXELS, ".gif", ".npz", ".npy", ".csv", ".pt", "")


class Mode(Enum):
    """What is sampled."""

    samples = "samples"
    interpolation = "interpolation"
    walk = "walk"
    classes = "classes"


DEFAULTS = {Mode.interpolation: 8, Mode.walk: 5, Mode.classes: 8}
PER_CLASS = 10  # images in a row
FRAMES = 16


@dataclass
class Options:
    checkpoint: Annotated[Path, CHECKPOINT] = MISSING
    out: Annotated[Path, "file, or folder if it has no ending"] = Path("samples.png")
    mode: Annotated[Mode, "samples, interpolation, walk or classes"] = Mode.samples
    n: Annotated[
        int | None,
        "how many; null for 64 images, 10 per class, 10000 points, 8 rows or 5 latents",
    ] = None
    classes: Annotated[list[str], "for a conditional generator, by name or number; [] for all"] = field(
        default_factory=list
    )
    inputs: Annotated[Path | None, "folder of images to translate with a game=pix2pix generator"] = None
    cache: Annotated[str | None, "folder that caches the decoded inputs; null for the run's own"] = None
    frames: Annotated[int | None, f"from one latent or class to the next, including both; null for {FRAMES}"] = None
    seed: Annotated[int, "of the latents"] = 0
    truncation: Annotated[float | None, "redraw coordinates of normal latents beyond this value"] = None
    weights: Annotated[Weights, "average (EMA generator) or raw (live generator)"] = Weights.average
    batch_size: Annotated[int, "number of samples per forward pass"] = 500
    device: Annotated[str, "auto, cpu, cuda, cuda:1"] = "auto"
    trust: Annotated[list[str], "further packages that the checkpoint may import"] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_values(self, n=optional(SIZE), frames=optional(SIZE), seed=optional(SEED), batch_size=SIZE)
        check_values(self, truncation=optional(POSITIVE))
        if self.mode is Mode.samples and self.frames is not None:
            raise UsageError(f"frames is {self.frames}, but mode=samples has none: leave it out, or give another mode.")
        if self.cache is not None and self.inputs is None:
            raise UsageError(f"cache is {self.cache}, but there are no inputs to cache: leave it out.")
        if self.length < 2:
            raise UsageError(f"frames is {self.frames}: give at least 2, for the two ends.")
        if self.mode is Mode.walk and self.n == 1:
            raise UsageError("n is 1: a walk visits at least 2 latents.")
        suffix = self.out.suffix.lower()
        if suffix not in ENDINGS:
            raise UsageError(f"out is {self.out}: end it in {', '.join(ENDINGS[:-1])}, or nothing for a folder.")
        if suffix == ".gif" and self.mode is Mode.samples:
            raise UsageError(f"out is {self.out}: an animation needs mode=interpolation, mode=walk or mode=classes.")
        check_checkpoint(self.checkpoint)
        check_out(self.out, self.checkpoint)

    @property
    def length(self) -> int:
        """The number of frames."""
        return FRAMES if self.frames is None else self.frames


def draw_latents(prior: "Prior", options: Options, n: int) -> "Tensor":
    """Draw latents: (n, size) for samples, (n, frames, size) for interpolations, (n, frames - 1, size) for a walk."""
    import torch

    from gan_lightning.latents import between, closed_walk, truncated

    noise = torch.Generator().manual_seed(options.seed)
    ends = 2 * n if options.mode is Mode.interpolation else n
    if options.truncation is None:
        latents = prior.sample(ends, noise)
    else:
        latents = truncated(prior, ends, options.truncation, noise)
    if options.mode is Mode.interpolation:
        return between(prior, latents[:n], latents[n:], options.length)
    return closed_walk(prior, latents, options.length) if options.mode is Mode.walk else latents


def with_labels(gan: "GAN", options: Options, latents: "Tensor") -> "tuple[Tensor, Tensor | None]":
    """The latents and their labels, with equal leading dimensions; (n, frames, size) and weights for mode=classes."""
    from gan_lightning.labels import between

    names = options.classes or gan.class_names
    if options.mode is Mode.classes:
        if not gan.game.is_conditional:
            raise UsageError("mode=classes needs a conditional generator: train with model.conditional=true.")
        if len(names) < 2:
            raise UsageError(f"mode=classes needs at least two classes, but there are {len(names)}.")
        corners = gan.labels(len(names), names)
        assert corners is not None
        labels = between(corners.tolist(), options.length, len(gan.class_names)).expand(len(latents), -1, -1)
        return latents[:, None].expand(-1, labels.shape[1], -1), labels
    in_turn = gan.labels(len(latents), options.classes or None)
    if in_turn is None or options.mode is Mode.samples:
        return latents, in_turn
    if options.mode is Mode.walk and len(options.classes) > 1:
        raise UsageError(f"classes is {options.classes}, but a walk stays in one class: give one.")
    labels = in_turn[:1] if options.mode is Mode.walk else in_turn
    return latents, labels[:, None].expand(latents.shape[:-1]).contiguous()


def images_of(options: Options, gan: "GAN", data: "RealData") -> "Tensor | None":
    """The images for a generator to translate, (n, *sample_shape); None for other generators.

    Raises:
        UsageError: they are not given, or cannot be used.
    """
    from gan_lightning.data.folder import ImageFolder
    from gan_lightning.data.pairs import Pairs
    from gan_lightning.pixels import from_bytes

    if not gan.game.translates:
        if options.inputs is not None:
            raise UsageError("inputs is only for generators of game=pix2pix, which translate images: leave it out.")
        return None
    if options.inputs is None or options.mode is not Mode.samples:
        raise UsageError("This generator translates images: give inputs=FOLDER, without mode.")
    if options.classes or options.truncation is not None:
        raise UsageError("This generator translates images: leave out classes and truncation.")
    assert isinstance(data, Pairs)
    channels, *size = data.sample_shape
    form: dict[str, Any] = {"fit": data.fit, "depth": data.depth, "range": data.range, "memory_limit": math.inf}
    folder = ImageFolder(str(options.inputs), 1, size, channels, cache=options.cache or data.cache, **form)
    try:
        images = folder.read(train=True)[0]
    except UsageError as error:
        raise UsageError(str(error).replace("data.root", "inputs").replace("data.cache", "cache")) from error
    if options.n is not None and options.n > len(images):
        raise UsageError(f"n is {options.n}, but {options.inputs} has only {len(images)}: leave out n for all.")
    assert data.value_range is not None
    return from_bytes(images[: options.n], data.value_range)


def how_many(gan: "GAN", options: Options, data: "RealData") -> int:
    """The default number of latents."""
    classes = len(options.classes) or len(gan.class_names)
    is_grid = classes > 0 and len(data.sample_shape) == 3
    return DEFAULTS.get(options.mode) or (PER_CLASS * classes if is_grid else data.shown)


def film(samples: "Tensor", mode: Mode) -> Iterable["Tensor"]:
    """The frames of (rows, columns, *sample_shape): a walk one by one, interpolations all at once, back and forth."""
    if mode is Mode.walk:
        return samples.flatten(0, 1).split(1)
    forth = samples.unbind(1)
    return [*forth, *forth[-2:0:-1]]


def classes_of(labels: "Tensor | None", class_names: Sequence[str]) -> list[str] | None:
    """The name of each sample's class; None without names, and for weights of several classes."""
    if labels is None or labels.is_floating_point() or not class_names:
        return None
    return [class_names[k] for k in labels.flatten().tolist()]


def write(
    options: Options,
    latents: "Tensor",
    labels: "Tensor | None",
    batches: Iterator["Tensor"],
    data: "RealData",
    class_names: Sequence[str],
) -> None:
    """Write the batches of samples in the format given by the extension of ``out``."""
    import torch

    from gan_lightning import sampling
    from gan_lightning.batch import Batch

    out, suffix = options.out, options.out.suffix.lower()
    if not suffix:
        return sampling.write_images(out, batches, data)
    samples = torch.cat(list(batches))
    rows = samples.unflatten(0, latents.shape[:-1])
    if suffix in PIXELS:
        is_grid = options.mode is Mode.samples
        picture = data.picture(Batch(samples, labels)) if is_grid else data.picture(Batch(samples), latents.shape[1])
        sampling.write_picture(out, picture)
    elif suffix == ".gif":
        sampling.write_gif(out, film(rows, options.mode), data)
    elif suffix == ".csv":
        sampling.write_records(out, samples, data, classes_of(labels, class_names))
    else:
        sampling.write_arrays(out, rows, latents, labels, options.seed, data, class_names)
    return None


def sample(options: Options) -> None:
    """Generate the samples and write them.

    Raises:
        UsageError: the checkpoint cannot be read, or does not fit the options.
    """
    from gan_lightning.build import build_data
    from gan_lightning.checkpoints import load
    from gan_lightning.sampling import generate, to_device

    gan = to_device(load(options.checkpoint, trust=options.trust), options.device)
    data = build_data(OmegaConf.create(gan.config))
    data.recall(gan.described)
    weights = Weights.raw if gan.average is None else options.weights
    images = images_of(options, gan, data)
    n = options.n or how_many(gan, options, data)
    latents = draw_latents(gan.game.prior, options, n if images is None else len(images))
    latents, labels = with_labels(gan, options, latents) if images is None else (latents, images)
    each = None if labels is None else labels.flatten(0, latents.dim() - 2)
    batches = generate(gan, latents.flatten(0, -2), options.batch_size, weights is Weights.raw, each)
    write(options, latents, labels, batches, data, gan.class_names)
    if weights is not options.weights:
        print(f"{options.checkpoint} has no averaged generator: these are samples of the raw one.")
    print(f"{latents[..., 0].numel()} samples of step {gan.loaded_step}, {weights.value} generator, in {options.out}")


def main() -> None:
    options = read_options(Options, __doc__)
    with refusals(options.out):
        sample(options)
