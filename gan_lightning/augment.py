"""Differentiable augmentation of the images that D sees in training, drawn independently for each image."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gan_lightning.checks import PROBABILITY
from gan_lightning.errors import UsageError
from gan_lightning.schedules import Ramp
from gan_lightning.streams import Draw, joint, joint_sum


class Augment(nn.Module):
    """A transform T of images (N, channels, height, width) in training; the identity in evaluation mode.

    It is applied to all images that D receives, real and generated, in the updates of both players, so T must be
    differentiable. Subclasses draw random numbers for each image with ``streams.joint``.
    """

    follows_logits = False  # whether it needs the sign of D's logits on real images
    value_range: tuple[float, float] | None = None  # of the pixels that it is defined for

    def forward(self, images: Tensor) -> Tensor:
        """T(x), or x in evaluation mode.

        Raises:
            UsageError: the samples are not images.
        """
        if not self.training:
            return images
        if images.dim() != 4:
            raise UsageError(
                f"{type(self).__name__} augments images, (channels, height, width), but the data has samples of shape "
                f"{tuple(images.shape[1:])}: choose augment=none, or data with images."
            )
        with torch.autocast(images.device.type, enabled=False):
            return self.transform(images)

    def transform(self, images: Tensor) -> Tensor:
        """T(x), with the shape and type of the images."""
        raise TypeError(f"{type(self).__name__} must define how to transform images")

    def begin(self, update: int) -> None:
        """Prepare for D's ``update``, from 0, before its first micro-batch."""

    def observe(self, real_logits: Tensor, images: int) -> None:
        """Observe D's logits, minus the loss's threshold, on the ``images`` real images of a micro-batch."""

    def describe(self) -> dict[str, Tensor]:
        """Values to log, by name."""
        return {}


# ------------------------------------------------------------------------------------------------------- DiffAugment

PARTS = ("color", "translation", "cutout")
SHIFT, CUT = 0.125, 0.5  # of the height and the width; both in the released code


class DiffAugment(Augment):
    """Applies all parts of ``policy``, in order, to every image (Zhao et al. 2020, section 3.2).

    Distributions are those of the released code, for images in [-1, 1]: ``color`` adds U(-.5, .5), then scales the
    difference from the mean over channels by U(0, 2) and that from the mean over the image by U(.5, 1.5);
    ``translation`` shifts the image by up to an eighth of its sides, uniform over whole pixels; ``cutout`` erases a
    rectangle with half the sides at a uniform position. Uncovered pixels are 0.
    """

    def __init__(self, policy: Sequence[str] = PARTS) -> None:
        super().__init__()
        self.policy = list(policy)
        if not policy or any(part not in PARTS or self.policy.count(part) > 1 for part in self.policy):
            raise UsageError(f"augment.policy is {policy!r}: give a list of one or more of {', '.join(PARTS)}.")
        self.value_range = (-1.0, 1.0)

    def transform(self, images: Tensor) -> Tensor:
        brightness, saturation, contrast, *places = _drawn(_seven, images)
        for part in self.policy:
            if part == "color":
                images = colored(images, brightness, saturation, contrast)
            elif part == "translation":
                images = translated(images, *places[:2])
            else:
                images = cut_out(images, *places[2:])
        return images


def _seven(n: int, generator: torch.Generator | None) -> Tensor:
    return torch.rand(n, 7, generator=generator)


def colored(images: Tensor, *draws: Tensor) -> Tensor:
    """Change brightness, saturation and contrast, by draws from U(0, 1), (N,) each."""
    brightness, saturation, contrast = (u.to(images.dtype).view(-1, 1, 1, 1) for u in draws)
    images = images + (brightness - 0.5)
    mean = images.mean(1, keepdim=True)
    images = mean + 2 * saturation * (images - mean)
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (0.5 + contrast) * (images - mean)


def translated(images: Tensor, *draws: Tensor) -> Tensor:
    """Shift images along both axes, by draws from U(0, 1), (N,) each."""
    places, inside = [], []
    for u, size in zip(draws, images.shape[2:], strict=True):
        most = int(size * SHIFT + 0.5)
        shift = (u * (2 * most + 1)).long() - most
        place = torch.arange(size, device=u.device) + shift[:, None]
        inside.append((place >= 0) & (place < size))
        places.append(place.clamp(0, size - 1))
    return _gathered(images, places[0][:, :, None], places[1][:, None]) * _rectangle(*inside)


def cut_out(images: Tensor, *draws: Tensor) -> Tensor:
    """Erase a rectangle whose center follows from draws from U(0, 1), (N,) each."""
    covered = []
    for u, size in zip(draws, images.shape[2:], strict=True):
        extent = int(size * CUT + 0.5)
        # the center of an even extent is between pixels, so there is one more position
        first = (u * (size + 1 - extent % 2)).long()[:, None] - extent // 2
        place = torch.arange(size, device=u.device)
        covered.append((place >= first) & (place < first + extent))
    return images * ~_rectangle(*covered)


def _rectangle(rows: Tensor, columns: Tensor) -> Tensor:
    """The outer conjunction of (N, height) and (N, width), (N, 1, height, width)."""
    return (rows[:, :, None] & columns[:, None])[:, None]


# --------------------------------------------------------------------------------------------------------------- ADA

BRIGHTNESS, CONTRAST, SATURATION = 0.2, 0.5, 1.0  # standard deviations, the last two of log2 of the factor


class ADA(Augment):
    """Adaptive augmentation (Karras et al. 2020, "Training GANs with Limited Data"): each transform with probability p.

    Implements two parts of the paper's pipeline (appendix B), for images in [-1, 1]: ``blit``, with flips, rotations by
    90 degrees and shifts by whole pixels with reflection at the borders; and ``color``, with brightness, contrast, luma
    flips, hue (three channels only) and saturation. ``pipeline`` lists the parts, or maps each to a factor of p. After
    every ``interval`` updates of D, p changes by the number of their images / ``speed``: it increases if
    r_t = E[sign D(x)] on real images is above ``target`` and decreases if it is below (section 3, equation 1), within
    [0, 1]. Without a target, p is the given number, or a ``Ramp`` over the run, as for R3GAN (Huang et al. 2024).

    Raises:
        UsageError: an argument is out of its range, or nothing would be augmented.
    """

    p: Any  # a tensor, or a Ramp
    r_t: Tensor  # in the last interval
    tally: Tensor  # the sum of signs and the number of images in this interval, over all processes

    def __init__(
        self,
        pipeline: Sequence[str] | Mapping[str, float] = ("blit", "color"),
        p: float | Ramp = 0.0,
        target: float | None = 0.6,
        speed: float = 500_000,
        interval: int = 4,
    ) -> None:
        super().__init__()
        self.factors = _factors(pipeline)
        ends = (p.initial, p.final) if isinstance(p, Ramp) else (p,)
        if not all(map(PROBABILITY[0], ends)):
            raise UsageError(f"augment.p is {' to '.join(map(str, ends))}: give {PROBABILITY[1]}.")
        if speed <= 0 or interval < 1:
            raise UsageError(f"augment.speed is {speed} and augment.interval {interval}: give numbers above 0.")
        if target is None and not any(ends):
            raise UsageError("augment.target is null and augment.p is 0, so that nothing is augmented: give augment.p.")
        if target is not None and isinstance(p, Ramp):
            raise UsageError(f"augment.p is a ramp, but augment.target={target:g} adjusts p: give augment.target=null.")
        self.value_range = (-1.0, 1.0) if "color" in self.factors else None
        self.target, self.speed, self.interval = target, speed, interval
        self.follows_logits = target is not None
        if isinstance(p, Ramp):
            self.p = p
        else:
            self.register_buffer("p", torch.tensor(float(p)))
        self.register_buffer("r_t", torch.zeros(()))
        self.register_buffer("tally", torch.zeros(2))

    def transform(self, images: Tensor) -> Tensor:
        p = float(self.p) if isinstance(self.p, Ramp) else self.p  # a float would wait for the device
        for part, factor in self.factors.items():
            images = (self._blit if part == "blit" else self._color)(images, factor * p)
        return images

    @staticmethod
    def _blit(images: Tensor, p: Tensor | float) -> Tensor:
        """Flip, then rotate as by ``torch.rot90``, then shift."""
        *_, height, width = images.shape
        if height != width:
            raise UsageError(
                f"augment=ada rotates images by 90 degrees, but the data has {height} x {width} pixels: leave this out "
                "by augment.pipeline.blit=0, or give square images."
            )
        flip_due, turn_due, shift_due, flip, turn, *shifts = _drawn(_seven, images)
        flips = (flip_due < p) & (flip < 0.5)
        turns = torch.where(turn_due < p, (4 * turn).long(), 0)
        down, right = (torch.where(shift_due < p, ((2 * u - 1) * SHIFT * width).round().long(), 0) for u in shifts)
        return _gathered(images, *_sources(width, flips, turns, down, right))

    @staticmethod
    def _color(images: Tensor, p: Tensor | float) -> Tensor:
        """A x + t on the channels x, a composition of affine maps that share the axis of equal channels."""
        channels = images.shape[1]
        *dues, flip, angle, brightness, contrast, saturation = _drawn(_color_draws, images)
        due = [u < p for u in dues]
        shift = torch.where(due[0], BRIGHTNESS * brightness, 0)
        scale = torch.where(due[1], torch.exp2(CONTRAST * contrast), 1)
        sign = torch.where(due[2] & (flip < 0.5), -1.0, 1.0)  # of the mean over channels: the luma flip
        hue = torch.where(due[3], (2 * angle - 1) * math.pi, 0)
        chroma = torch.where(due[4], torch.exp2(SATURATION * saturation), 1)  # of the difference from the mean
        turned = chroma.view(-1, 1, 1) * _turned(hue, channels)
        matrix = scale.view(-1, 1, 1) * (turned + ((sign - chroma) / channels).view(-1, 1, 1))
        offset = (scale * sign * shift).view(-1, 1, 1)
        return (matrix.to(images.dtype) @ images.flatten(2) + offset.to(images.dtype)).view(images.shape)

    def begin(self, update: int) -> None:
        if self.follows_logits and update % self.interval == 0:
            self._adjust()

    @torch.no_grad()
    def observe(self, real_logits: Tensor, images: int) -> None:
        if not self.follows_logits:
            return
        share = images / len(real_logits)  # images per logit, if D judges several together
        seen = torch.stack([real_logits.sign().sum() * share, real_logits.new_full((), images)])
        self.tally += joint_sum(seen)

    @torch.no_grad()
    def _adjust(self) -> None:
        """Update p from the interval that has ended."""
        assert self.target is not None
        signs, images = self.tally
        self.r_t.copy_(signs / images.clamp(min=1))
        self.p.add_((self.r_t - self.target).sign() * images / self.speed).clamp_(0, 1)
        self.tally.zero_()

    def describe(self) -> dict[str, Tensor]:
        return {"augment/p": self.p, "augment/r_t": self.r_t} if self.follows_logits else {}


def _factors(pipeline: Sequence[str] | Mapping[str, float]) -> dict[str, float]:
    """The factor of p for each part, in order, without those of 0.

    Raises:
        UsageError: there are none, a part is unknown or repeated, or a factor is no number from 0 to 1.
    """
    factors = dict(pipeline) if isinstance(pipeline, Mapping) else dict.fromkeys(pipeline, 1.0)
    is_repeated = len(factors) < len(pipeline)
    if not factors.keys() <= {"blit", "color"} or is_repeated or not all(map(PROBABILITY[0], factors.values())):
        raise UsageError(
            f"augment.pipeline is {pipeline!r}: give a list of blit and color, or their factors of p, from 0 to 1, "
            "such as {blit: 1, color: 0.5}."
        )
    if not any(factors.values()):
        raise UsageError(f"augment.pipeline is {pipeline!r}, so that nothing is augmented: give blit, color or both.")
    return {part: factor for part, factor in factors.items() if factor}


def _color_draws(n: int, generator: torch.Generator | None) -> Tensor:
    uniform = torch.rand(n, 7, generator=generator)
    return torch.cat([uniform, torch.randn(n, 3, generator=generator)], 1)


def _sources(size: int, flips: Tensor, turns: Tensor, down: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The source row and column of each pixel, (N, size, size); the other arguments are (N,)."""
    last, place = size - 1, torch.arange(size, device=turns.device)
    flips, turns = flips.view(-1, 1, 1), turns.view(-1, 1, 1)
    i, j = (last - (last - (place - shift[:, None]).abs()).abs() for shift in (down, right))  # reflected
    i, j = i[:, :, None], j[:, None]
    is_on_its_side = turns % 2 == 1
    rows, columns = torch.where(is_on_its_side, j, i), torch.where(is_on_its_side, i, j)
    rows = torch.where(turns >= 2, last - rows, rows)
    columns = torch.where(((turns == 1) | (turns == 2)) ^ flips, last - columns, columns)
    return rows, columns


def _turned(angle: Tensor, channels: int) -> Tensor:
    """Rotations about the axis of equal channels, (N, 3, 3) (Rodrigues); the identity unless there are 3 channels."""
    eye = torch.eye(channels, device=angle.device)
    if channels != 3:
        return eye.expand(len(angle), -1, -1)
    cross = (eye.roll(1, 0) - eye.roll(1, 1)) / math.sqrt(3)
    cos, sin = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    return cos * eye + sin * cross + (1 - cos) / 3


# ------------------------------------------------------------------------------------------------------------- shared


def _drawn(draw: Draw, images: Tensor) -> tuple[Tensor, ...]:
    """Draw one row per image, and return the columns on the images' device."""
    return joint(draw, len(images), images.device).unbind(1)


def _gathered(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixel (i, j) of image n from row rows[n, i, j] and column columns[n, i, j], in all channels."""
    index = (rows * images.shape[3] + columns).flatten(1)
    return images.flatten(2).gather(2, index[:, None].expand(-1, images.shape[1], -1)).view(images.shape)
