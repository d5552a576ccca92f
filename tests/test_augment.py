"""Augmentation against references image by image, its draws, its gradient, ADA's controller, and what leaks."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import GivenData, Lines, fit, small_gan
from scipy import stats
from torch import Tensor, nn
from torch.nn.functional import pad, softplus
from torch.testing import assert_close

from gan_lightning import losses, streams
from gan_lightning.augment import ADA, Augment, DiffAugment
from gan_lightning.batch import Batch
from gan_lightning.errors import UsageError
from gan_lightning.game import Game, evaluating
from gan_lightning.priors import Normal
from gan_lightning.regularizers import R1, R2, GradientPenalty, Regularizer
from gan_lightning.schedules import Ramp
from gan_lightning.streams import Streams

KINDS: dict[str, Callable[[], Augment]] = {
    "color": lambda: DiffAugment(["color"]),
    "translation": lambda: DiffAugment(["translation"]),
    "cutout": lambda: DiffAugment(["cutout"]),
    "diffaugment": DiffAugment,
    "ada-blit": lambda: ADA(["blit"], p=1.0),
    "ada-color": lambda: ADA(["color"], p=1.0),
    "ada": lambda: ADA(p=0.7),
}
ALL = pytest.mark.parametrize("kind", KINDS)


def images(n: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double) * 2 - 1


def seeded(augment: Augment, x: Tensor, seed: int = 3) -> Tensor:
    torch.manual_seed(seed)
    return augment(x)


# ------------------------------------------------------------------------------------------- image by image


def colored(image: Tensor, u: list[float]) -> Tensor:
    image = image + u[0] - 0.5
    gray = image.mean(0, keepdim=True)
    image = (image - gray) * (2 * u[1]) + gray
    return (image - image.mean()) * (u[2] + 0.5) + image.mean()


def translated(image: Tensor, u: list[float]) -> Tensor:
    _, height, width = image.shape
    most = [int(size / 8 + 0.5) for size in (height, width)]
    down, right = (math.floor(u[3 + k] * (2 * most[k] + 1)) - most[k] for k in (0, 1))
    out = torch.zeros_like(image)
    for i in range(height):
        for j in range(width):
            if 0 <= i + down < height and 0 <= j + right < width:
                out[:, i, j] = image[:, i + down, j + right]
    return out


def cut_out(image: Tensor, u: list[float]) -> Tensor:
    """By the places of the rectangle, those beyond the border moved onto it, as in the released code."""
    places = []
    for k, size in enumerate(image.shape[1:]):
        extent = int(size / 2 + 0.5)
        center = math.floor(u[5 + k] * (size + (1 - extent % 2)))
        places.append([min(max(center - extent // 2 + m, 0), size - 1) for m in range(extent)])
    out = image.clone()
    for i in places[0]:
        for j in places[1]:
            out[:, i, j] = 0
    return out


STEPS = {"color": colored, "translation": translated, "cutout": cut_out}


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 10), (2, 16, 9)])
@pytest.mark.parametrize("policy", [["color"], ["translation"], ["cutout"], [*STEPS], ["cutout", "color"]])
def test_diffaugment_is_its_policy_image_by_image(policy: list[str], shape: tuple[int, ...]) -> None:
    x = images(6, *shape)
    found = seeded(DiffAugment(policy), x)
    torch.manual_seed(3)
    for image, u, result in zip(x, torch.rand(6, 7).tolist(), found, strict=True):
        for part in policy:
            image = STEPS[part](image, u)
        assert_close(result, image, rtol=0, atol=1e-6)  # the draws are of float32


def blitted(image: Tensor, u: list[float], p: float) -> Tensor:
    if u[0] < p and u[3] < 0.5:
        image = image.flip(2)
    if u[1] < p:
        image = torch.rot90(image, math.floor(4 * u[4]), (1, 2))
    if u[2] < p:
        size = image.shape[1]
        down, right = (round((2 * v - 1) / 8 * size) for v in u[5:])
        border = size // 8 + 1
        wide = pad(image[None], [border] * 4, mode="reflect")[0]
        image = wide[:, border - down : border - down + size, border - right : border - right + size]
    return image


def recolored(image: Tensor, u: list[float], p: float) -> Tensor:
    """By homogeneous matrices of red, green and blue; of one channel by their mean, as in the released code."""
    flip, angle, brightness, contrast, saturation = u[5:]
    axis = torch.tensor([1.0, 1, 1, 0], dtype=torch.double) / math.sqrt(3)
    along, matrix = torch.outer(axis, axis), torch.eye(4, dtype=torch.double)
    if u[0] < p:
        matrix[:3, 3] += 0.2 * brightness
    if u[1] < p:
        matrix = torch.diag(torch.tensor([*[2 ** (0.5 * contrast)] * 3, 1], dtype=torch.double)) @ matrix
    if u[2] < p and flip < 0.5:
        matrix = (torch.eye(4, dtype=torch.double) - 2 * along) @ matrix
    if u[3] < p and len(image) == 3:
        turn = torch.zeros(4, 4, dtype=torch.double)
        turn[:3, :3] = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) * (2 * angle - 1) * math.pi / math.sqrt(3)
        matrix = torch.linalg.matrix_exp(turn) @ matrix
    if u[4] < p and len(image) == 3:
        matrix = (along + (torch.eye(4, dtype=torch.double) - along) * 2**saturation) @ matrix
    matrix = matrix[:3]
    if len(image) == 1:
        matrix = matrix.mean(0, keepdim=True)
        return image * matrix[0, :3].sum() + matrix[0, 3]
    return torch.einsum("cd,dhw->chw", matrix[:, :3], image) + matrix[:, 3, None, None]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 19, 19)])
@pytest.mark.parametrize(("p", "of_blit", "of_color"), [(0.5, 1.0, 1.0), (1.0, 1.0, 1.0), (0.8, 0.6, 0.5)])
def test_ada_is_its_pipeline_image_by_image(shape: tuple[int, ...], p: float, of_blit: float, of_color: float) -> None:
    x = images(40, *shape)
    found = seeded(ADA({"blit": of_blit, "color": of_color}, p=p), x)
    torch.manual_seed(3)
    blit = torch.rand(40, 7).tolist()
    color = torch.cat([torch.rand(40, 7), torch.randn(40, 3)], 1).tolist()
    for image, u, v, result in zip(x, blit, color, found, strict=True):
        assert_close(result, recolored(blitted(image, u, of_blit * p), v, of_color * p), rtol=1e-5, atol=1e-5)


# ----------------------------------------------------------------------------------- what holds for all of them


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shape_and_type_stay(kind: str, dtype: torch.dtype) -> None:
    x = images(4, 3, 8, 8).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found = KINDS[kind]()(x)
    assert (found.shape, found.dtype) == (x.shape, dtype)
    assert not torch.equal(found, x)


@ALL
def test_nothing_is_augmented_in_evaluation_mode(kind: str) -> None:
    x = images(4, 3, 8, 8)
    assert KINDS[kind]().eval()(x) is x


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_ada_at_p_zero_is_exactly_the_images(channels: int) -> None:
    x = images(16, channels, 8, 8).float()
    assert torch.equal(ADA(p=0.0)(x), x)


@ALL
@pytest.mark.parametrize("channels", [1, 3])
def test_the_gradient_in_the_images(kind: str, channels: int) -> None:
    augment, x = KINDS[kind](), images(3, channels, 4, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: seeded(augment, x), x, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: seeded(augment, x).square(), x, fast_mode=True)


@ALL
def test_processes_augment_together_what_one_would(kind: str) -> None:
    augment, x = KINDS[kind](), images(8, 3, 8, 8)

    def shown(rank: int, ranks: int, part: Tensor) -> Tensor:
        process = Streams(7, rank, ranks, torch.device("cpu"))
        process.begin(3)
        with process.running():
            return augment(part)

    parts = [shown(rank, 2, half) for rank, half in enumerate(x.split(4))]
    assert torch.equal(torch.cat(parts), shown(0, 1, x))


@ALL
def test_what_is_no_image_is_refused(kind: str) -> None:
    with pytest.raises(UsageError, match=r"augments images, .* samples of shape \(2,\): choose augment=none"):
        KINDS[kind]()(torch.zeros(4, 2))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: DiffAugment([]), r"augment.policy is \[\]: give a list of one or more of color, translation, cutout"),
        (lambda: DiffAugment(["color", "color"]), r"augment.policy is \['color', 'color'\]"),
        (lambda: DiffAugment("color"), "augment.policy is 'color'"),
        (lambda: ADA(["cutout"]), r"augment.pipeline is \['cutout'\]: give a list of blit and color, or their factors"),
        (lambda: ADA(["blit", "blit"]), r"augment.pipeline is \['blit', 'blit'\]: give a list"),
        (lambda: ADA("blit"), "augment.pipeline is 'blit': give a list"),
        (lambda: ADA({"color": 2}), r"augment.pipeline is {'color': 2}: give a list .* factors of p, from 0 to 1"),
        (lambda: ADA([]), r"augment.pipeline is \[\], so that nothing is augmented"),
        (lambda: ADA({"blit": 0}), "augment.pipeline is {'blit': 0}, so that nothing is augmented"),
        (lambda: ADA(p=1.5), "augment.p is 1.5: give a number from 0 to 1"),
        (lambda: ADA(p=Ramp(0, 1.5, 9), target=None), "augment.p is 0 to 1.5: give a number from 0 to 1"),
        (lambda: ADA(p=Ramp(0, 0.5, 9)), "augment.p is a ramp, but augment.target=0.6 adjusts p: give augment"),
        (lambda: ADA(target=None), "augment.target is null and augment.p is 0"),
        (lambda: ADA(p=Ramp(0, 0, 9), target=None), "augment.target is null and augment.p is 0"),
        (lambda: ADA(speed=0), "augment.speed is 0 and augment.interval 4: give numbers above 0"),
        (lambda: ADA(interval=0), "augment.interval 0: give numbers above 0"),
        (lambda: ADA(p=1.0)(torch.zeros(2, 1, 8, 9)), r"has 8 x 9 pixels: .*augment.pipeline.blit=0"),
        (lambda: Game(nn.Identity(), nn.Identity(), Normal(2), losses.Relativistic(), augment=ADA()), "fixed p by"),
    ],
)
def test_impossible_settings_are_refused(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make()


def test_a_fixed_p_needs_no_sign_of_the_logits() -> None:
    augment = ADA(p=0.3, target=None)
    Game(nn.Identity(), nn.Identity(), Normal(2), losses.Relativistic(), augment=augment)
    for update in range(9):
        augment.begin(update)
        augment.observe(torch.ones(4), 4)
    assert augment.p.item() == pytest.approx(0.3)
    assert not augment.describe()


def test_p_is_on_its_ramp_in_both_players_updates() -> None:
    """Recorded where images are augmented: twice in D's update and once in G's, p is the ramp's at that update."""
    seen: list[float] = []

    class Recording(ADA):
        def transform(self, images: Tensor) -> Tensor:
            shown = super().transform(images)
            seen.append(float(self.p))
            return shown

    gan, lines = image_gan(augment=Recording(p=Ramp(0.0, 0.8, 4), target=None)), Lines()
    fit(gan, GivenData(images(6, 8, 1, 4, 4), 8), 6, callbacks=[lines], log_every_n_steps=1)
    expected = [0.8 * (1 - math.cos(math.pi * min(step / 4, 1))) / 2 for step in range(6)]
    assert seen[-18:] == pytest.approx([p for p in expected for _ in range(3)], rel=1e-6)  # a rehearsal comes before
    assert [line["ramp/augment.p"] for line in lines.lines] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("order", ["discriminator_first", "generator_first", "simultaneous"])
def test_the_parts_of_an_update_are_augmented_alike(order: str) -> None:
    """Of four micro-batches, real and fake, in each of D's updates, though p changes after every one."""
    seen: list[float] = []

    class Recording(ADA):
        def transform(self, images: Tensor) -> Tensor:
            seen.append(self.p.item())
            return super().transform(images)

    gan = image_gan(augment=Recording(speed=200, interval=1), order=order, accumulate_grad_batches=4)
    fit(gan, GivenData(images(6, 32, 1, 4, 4), 8), 6)
    updates = torch.tensor(seen[-6 * 12 :]).view(6, -1)  # D's eight passes and G's four
    of_d = updates[:, :8] if order == "discriminator_first" else updates[:, 4:]
    assert torch.equal(of_d, of_d[:, :1].expand(6, 8))
    assert len(of_d[:, 0].unique()) > 2


# ---------------------------------------------------------------------------------------------------- the draws


def assert_uniform(counts: Tensor) -> None:
    """At the level of 1 %; every place has its share."""
    assert stats.chisquare(counts.numpy()).pvalue > 0.01


@pytest.mark.parametrize(("height", "width"), [(17, 9), (28, 28)])
def test_translation_is_uniform_over_whole_pixels_with_both_ends(height: int, width: int) -> None:
    x = torch.zeros(1, 1, height, width)
    x[:, :, height // 2, width // 2] = 1
    places = seeded(DiffAugment(["translation"]), x.expand(6000, -1, -1, -1)).sum((0, 1))
    down, right = (int(size / 8 + 0.5) for size in (height, width))
    reached = places[height // 2 - down :, width // 2 - right :][: 2 * down + 1, : 2 * right + 1]
    assert reached.sum() == places.sum() == 6000
    assert_uniform(reached.flatten())


@pytest.mark.parametrize(("size", "centers"), [(8, 9), (5, 5), (28, 29)])
def test_cutouts_center_is_uniform_over_the_image(size: int, centers: int) -> None:
    left = seeded(DiffAugment(["cutout"]), torch.ones(6000, 1, size, size))
    for axis in (1, 2):
        bare = (left == 0).flatten(1, 1)[:, 0].any(3 - axis)
        patterns, counts = bare.unique(dim=0, return_counts=True)
        assert len(patterns) == centers
        assert patterns.any(1).all()
        assert_uniform(counts)


def orientations() -> Tensor:
    """One image of 4 x 4 pixels in all its flips and turns, (8, 1, 4, 4); too small to be shifted."""
    image = torch.arange(16.0).view(1, 4, 4)
    return torch.stack([torch.rot90(side, k, (1, 2)) for side in (image, image.flip(2)) for k in range(4)])


def transition(p: float) -> Tensor:
    """The probability of each orientation, (8,), once the augmented are turned and flipped with probability p each."""
    places = {tuple(o.flatten().tolist()): i for i, o in enumerate(orientations())}
    matrix = torch.zeros(8, 8)
    for i, image in enumerate(orientations()):
        for flip, of_flip in ((image, 1 - p / 2), (image.flip(2), p / 2)):
            for k in range(4):
                j = places[tuple(torch.rot90(flip, k, (1, 2)).flatten().tolist())]
                matrix[i, j] += of_flip * (p / 4 + (1 - p) * (k == 0))
    return matrix


@pytest.mark.parametrize("p", [0.3, 0.8, 1.0])
def test_below_one_p_leaves_the_distribution_recoverable(p: float) -> None:
    """The operator on the distribution of orientations is invertible for p < 1, where a wrong one shows."""
    n = 4000
    shown = seeded(ADA(["blit"], p=p), orientations().repeat_interleave(n, 0)).view(8, n, 16)
    counted = (shown[:, :, None] == orientations().view(8, 16)).all(3).sum(1) / n
    expected = transition(p)
    assert_close(counted, expected, rtol=0, atol=4 * 0.5 / math.sqrt(n))
    smallest = torch.linalg.svdvals(expected).min()
    assert_close(smallest, torch.tensor((1 - p) ** 2), rtol=0, atol=1e-6)
    if p < 1:
        assert torch.linalg.svdvals(counted).min() > 0.5 * (1 - p) ** 2


# ------------------------------------------------------------------------------------------------ the controller


def test_p_follows_the_sign_of_the_logits() -> None:
    """Against a count by hand: up where more than 80 % of the interval's logits are positive, by images / speed."""
    augment, noise = ADA(target=0.6, speed=100, interval=3), torch.Generator().manual_seed(1)
    p, signs, seen, expected = 0.0, 0.0, 0, []
    for update in range(40):
        if update % 3 == 0 and seen:
            p = min(max(p + (1 if signs / seen > 0.6 else -1) * seen / 100, 0), 1)
            signs, seen = 0.0, 0
        expected.append(p)
        augment.begin(update)
        for _ in range(2):  # micro-batches
            assert augment.p.item() == pytest.approx(p)
            logits = torch.randn(5, generator=noise) + (3 if update < 25 else 0)
            augment.observe(logits, 5)
            signs, seen = signs + logits.sign().sum().item(), seen + 5
    assert max(expected) == 1
    assert min(expected[25:]) < 0.5


def test_a_logit_of_several_images_counts_as_these() -> None:
    alone, packed = ADA(speed=100), ADA(speed=100)
    for update in range(5):
        alone.begin(update)
        packed.begin(update)
        alone.observe(torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0, 1.0, 1.0, 1.0]), 8)
        packed.observe(torch.tensor([1.0, -1.0, 1.0, 1.0]), 8)
    assert_close(list(packed.buffers()), list(alone.buffers()))
    assert packed.r_t.item() == 0.5


def test_processes_follow_the_signs_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, of which each adds to what it sees what the other has seen."""
    logits = torch.randn(10, 8, generator=torch.Generator().manual_seed(0)) + 1
    alone = ADA(speed=50)
    for update in range(10):
        alone.begin(update)
        alone.observe(logits[update], 8)
    halves = [ADA(speed=50), ADA(speed=50)]
    for update in range(10):
        for rank, augment in enumerate(halves):
            here, there = logits[update].split(4)[:: 1 - 2 * rank]
            other = torch.stack([there.sign().sum(), torch.tensor(4.0)])
            monkeypatch.setattr(streams.distributed, "all_reduce", lambda seen, other=other: seen.add_(other))
            with Streams(0, rank, 2, torch.device("cpu")).running():
                augment.begin(update)
                augment.observe(here, 4)
    for augment in halves:
        assert_close(list(augment.buffers()), list(alone.buffers()), rtol=0, atol=0)
    assert alone.p > 0


def image_gan(**options: Any) -> Any:
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(3, 16), nn.Unflatten(1, (1, 4, 4)))
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))
    return small_gan(generator=generator, discriminator=discriminator, **options)


@pytest.mark.parametrize("stop", [3, 4])
def test_a_run_goes_on_within_an_interval(tmp_path: Path, stop: int) -> None:
    """9 or 12 of D's updates, where p moves every fourth: also where the next one would move it."""
    options: dict[str, Any] = {"critic_steps": 3, "accumulate_grad_batches": 2}
    data = GivenData(images(11, 3 * 2 * 4, 1, 4, 4), 4)

    def made() -> Any:
        return image_gan(augment=ADA(speed=300, target=-0.5), **options)

    whole = made()
    fit(whole, data, 11)
    first = fit(made(), data, stop)
    first.save_checkpoint(tmp_path / "x.ckpt")
    second = made()
    fit(second, data, 11, tmp_path / "x.ckpt")
    assert_close(second.state_dict(), whole.state_dict(), rtol=0, atol=0)
    assert 0 < whole.game.augment.p < 1
    assert whole.game.augment.tally[1] == 8  # of update 32


def test_p_is_logged(tmp_path: Path) -> None:
    gan = image_gan(augment=ADA(speed=100, target=-1.0))
    fit(gan, GivenData(images(5, 8, 1, 4, 4), 8), 5, log_every_n_steps=5)
    assert gan.log_line["augment/p"] == pytest.approx(0.32)
    assert gan.log_line["augment/r_t"] == gan.game.augment.r_t
    assert not any(
        "augment" in name for name in image_gan().game.describe({"real": torch.ones(2), "fake": -torch.ones(2)})
    )


# ------------------------------------------------------------------------------------------------------ the game


class Smooth(nn.Module):
    """A critic without kinks that remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(32, 5), nn.Tanh(), nn.Linear(5, 1), nn.Flatten(0)).double()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return self.layers(x)


def image_game(augment: Augment | None, **options: Any) -> Game:
    torch.manual_seed(1)
    generator = nn.Sequential(nn.Linear(2, 32), nn.Unflatten(1, (2, 4, 4))).double()
    return Game(generator, Smooth(), Normal(2), augment=augment, **options)


@pytest.mark.parametrize(
    ("loss", "logit", "r_t"),
    [
        (losses.NonSaturating(), 0.25, 1.0),
        (losses.LeastSquares(), 0.25, -1.0),  # D's threshold is 0.5
        (losses.LeastSquares(0.6), 0.25, 1.0),  # and here 0.2
    ],
)
def test_adas_signs_are_those_of_outputs_beyond_the_losss_threshold(
    loss: losses.Loss, logit: float, r_t: float
) -> None:
    class Constant(Smooth):
        def forward(self, x: Tensor) -> Tensor:
            return 0 * super().forward(x) + logit

    game = image_game(ADA(interval=1, speed=100), loss=loss)
    game.discriminator = Constant()
    real, fake = Batch(images(4, 2, 4, 4)), game.generate(torch.randn(4, 2, dtype=torch.double))
    assert isinstance(game.augment, ADA)
    game.discriminator_terms(real, fake, 0)
    game.augment.begin(1)
    assert game.augment.r_t == r_t


@pytest.mark.parametrize("loss", [losses.NonSaturating, losses.Relativistic])
def test_the_critic_is_shown_augmented_images_in_both_players_updates(loss: type[losses.Loss]) -> None:
    game, real = image_game(DiffAugment(), loss=loss()), Batch(images(4, 2, 4, 4))
    fake = game.generate(torch.randn(4, 2, dtype=torch.double))
    torch.manual_seed(3)
    game.discriminator_terms(real, fake, 0)
    game.generator_terms(real, fake, 0)
    torch.manual_seed(3)
    assert game.augment is not None
    order = [real, fake, fake, real][: 4 if loss.generator_needs_real else 3]
    assert_close(game.discriminator.seen, [game.augment(batch.x) for batch in order])
    game.generator_terms(real, fake, 0).losses["adversarial"].backward()
    assert game.generator[0].weight.grad.norm() > 0
    with evaluating(game):
        game.judge(real)
    assert game.discriminator.seen[-1] is real.x


@ALL
@pytest.mark.parametrize("penalty", [R1, R2, GradientPenalty])
def test_penalties_are_of_the_gradient_in_the_raw_images(kind: str, penalty: type[Regularizer]) -> None:
    """Against Jacobians of D(T(x)) whose draws come in the game's order: real, fake, then the penalty's own."""
    augment, real = KINDS[kind](), Batch(images(3, 2, 4, 4))
    game = image_game(augment, regularizers={"penalty": penalty(1.0)})
    fake = Batch(images(3, 2, 4, 4, seed=1))
    torch.manual_seed(3)
    found = game.discriminator_terms(real, fake, 0).losses["penalty"]
    torch.manual_seed(3)
    point, skipped = real.x, 0
    if penalty is not R1:
        augment(real.x)
        point, skipped = fake.x, 1
    if penalty is GradientPenalty:
        augment(fake.x)
        point, skipped = torch.lerp(fake.x, real.x, torch.rand(3).double().view(-1, 1, 1, 1)), 2
    state = torch.get_rng_state()

    def logits(x: Tensor) -> Tensor:
        torch.set_rng_state(state)
        return game.discriminator.layers(augment(x))

    jacobian = torch.autograd.functional.jacobian(logits, point)
    squared = jacobian[range(3), range(3)].flatten(1).square().sum(1)
    expected = (squared.sqrt() - 1).square() if penalty is GradientPenalty else squared / 2
    assert_close(found.detach(), expected.mean(), rtol=1e-9, atol=1e-12)
    assert len(game.discriminator.seen) == max(2, skipped + 1)


# ------------------------------------------------------------------------------------------------------ the leak


class Table(nn.Module):
    """A critic with a logit of its own for each orientation."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(8))
        self.images = orientations().flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1)[:, None] == self.images).all(2).float() @ self.logits


def learnt(p: float, updates: int = 150, n: int = 8, rate: float = 1.2) -> Tensor:
    """A generator's distribution of orientations, (8,), which began at 3/4 mirror images, where data have none."""
    torch.manual_seed(0)
    scores = torch.tensor([0.0] * 4 + [3.0] + [0.0] * 3, requires_grad=True)
    game = Game(nn.Identity(), Table(), Normal(2), augment=ADA(["blit"], p=p, target=None))
    real, every = Batch(orientations()[:1].repeat(8 * n, 1, 1, 1)), Batch(orientations().repeat_interleave(n, 0))
    for _ in range(updates):
        share = scores.softmax(0).repeat_interleave(n) / n
        of_d = softplus(-game.judge(real)).mean() + (share.detach() * softplus(game.judge(every))).sum()
        of_d = of_d + 0.02 * game.discriminator.logits.square().sum()
        of_d.backward()
        (share * softplus(-game.judge(every))).sum().backward(inputs=[scores])
        with torch.no_grad():
            for weights in (game.discriminator.logits, scores):
                weights -= rate * weights.grad
                weights.grad = None
    return scores.detach().softmax(0)


def test_the_generator_learns_the_side_for_p_below_one_alone() -> None:
    """At p = 1 all orientations look alike to D, and G keeps the mirror images; at p = 1/2 it must leave them."""
    assert learnt(0.5)[0] > 0.7
    assert learnt(1.0)[4] > 0.7
