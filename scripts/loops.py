"""Hand-written training loops of GANs, which scripts/benchmark.py and gpu.py compare with the package.

Lightning and Hydra are not imported here, because the memory of the loops is measured too.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from gan_lightning.losses import Loss, Minimax, Relativistic
from gan_lightning.priors import Prior

BLOCK = 10  # rounds of samples and latents that Limit draws at once


def gaussian(n: int) -> Tensor:
    return torch.randn(n, 1)


def mixture(n: int) -> Tensor:
    return 3.0 * torch.randint(-1, 2, (n, 1)) + 0.5 * torch.randn(n, 1)


def even_bits(n: int) -> Tensor:
    return ((2 * torch.randint(64, (n, 1)) >> torch.arange(6, -1, -1)) & 1).float()


def ring(n: int) -> Tensor:
    angle = 2 * math.pi / 8 * torch.randint(8, (n,))
    return torch.stack((angle.cos(), angle.sin()), 1) + 0.01 * torch.randn(n, 2)


def mnist(folder: Path) -> Dataset:
    from torchvision.datasets import MNIST
    from torchvision.transforms import ToTensor

    return MNIST(folder, transform=ToTensor())


def cifar(folder: Path) -> Dataset:
    from torchvision.datasets import CIFAR10, ImageFolder
    from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor

    if (folder / CIFAR10.base_folder).is_dir():
        return CIFAR10(folder, transform=ToTensor())
    return ImageFolder(folder, transform=Compose([Resize(32), CenterCrop(32), ToTensor()]))


TOYS = {"gaussian": gaussian, "mixture": mixture, "even_bits": even_bits, "ring": ring}
IMAGES = {"mnist": mnist, "cifar": cifar}


@dataclass(frozen=True)
class System:
    """What the loops train: the parts of a GAN, and its data as a function ``draw`` or as images in both forms."""

    generator: nn.Module
    discriminator: nn.Module
    loss: Loss
    prior: Prior
    generator_optimizer: Callable[..., Optimizer]
    discriminator_optimizer: Callable[..., Optimizer]
    order: str
    reuse_fakes: bool
    batch_size: int
    r1: float = 0.0  # weights of the penalties
    r2: float = 0.0
    draw: Callable[[int], Tensor] | None = None
    images: Tensor | None = None  # uint8, (images, channels, height, width), for Limit
    dataset: Dataset | None = None  # of images in [0, 1] and labels, for Tutorial


class Loop(ABC):
    """A hand-written loop over copies of a system's networks."""

    fused: bool | None  # whether the optimizers are fused
    block: int  # rounds drawn at once

    def __init__(self, system: System) -> None:
        self.system = system
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.generator = deepcopy(system.generator).to(self.device)
        self.discriminator = deepcopy(system.discriminator).to(self.device)
        self.optimizer_g = system.generator_optimizer(self.generator.parameters(), fused=self.fused)
        self.optimizer_d = system.discriminator_optimizer(self.discriminator.parameters(), fused=self.fused)
        self.is_penalized = system.r1 > 0 or system.r2 > 0
        updates = [self.update_discriminator, self.update_generator]
        self.updates = {"discriminator_first": updates, "generator_first": updates[::-1]}[system.order]

    def train(self, is_over: Callable[[int], bool]) -> None:
        """Train round after round until ``is_over``, which is called with the number of rounds."""
        noise = torch.Generator(self.device)
        latents = self.drawn(lambda n: self.system.prior.sample(n, noise))
        reals = self.images() if self.system.draw is None else self.drawn(self.system.draw)
        rounds = 0
        while not is_over(rounds):
            self.round(next(reals), latents)
            rounds += 1

    def drawn(self, draw: Callable[[int], Tensor]) -> Iterator[Tensor]:
        """Endless batches, (N, ...)."""
        n = self.system.batch_size
        while True:
            yield from draw(n * self.block).to(self.device).split(n)

    def round(self, real: Tensor, latents: Iterator[Tensor]) -> None:
        """Update each network once, on real samples (N, *sample_shape) and as many latents as needed."""
        shared = self.generator(next(latents)) if self.system.reuse_fakes else None

        def fake() -> Tensor:
            return self.generator(next(latents)) if shared is None else shared

        for update in self.updates:
            update(real, fake)

    @abstractmethod
    def update_discriminator(self, real: Tensor, fake: Callable[[], Tensor]) -> None: ...

    @abstractmethod
    def update_generator(self, real: Tensor, fake: Callable[[], Tensor]) -> None: ...

    @abstractmethod
    def images(self) -> Iterator[Tensor]:
        """Batches of real images in [-1, 1], epoch after epoch."""


class Tutorial(Loop):
    """The loop of most tutorials."""

    fused = None
    block = 1

    def __init__(self, system: System) -> None:
        super().__init__(system)
        self.criterion = nn.BCEWithLogitsLoss()
        self.total_d = self.total_g = 0.0

    def update_discriminator(self, real: Tensor, fake: Callable[[], Tensor]) -> None:
        real, generated = real.detach(), fake().detach()
        if self.is_penalized:
            real.requires_grad_()
            generated.requires_grad_()
        real_logits, fake_logits = self.discriminator(real), self.discriminator(generated)
        loss = self.loss_of_d(real_logits, fake_logits)
        if self.is_penalized:
            loss = loss + self.system.r1 / 2 * self.penalty(real_logits, real)
            loss = loss + self.system.r2 / 2 * self.penalty(fake_logits, generated)
        self.optimizer_d.zero_grad()
        loss.backward()
        self.optimizer_d.step()
        self.total_d += loss.item()

    def update_generator(self, real: Tensor, fake: Callable[[], Tensor]) -> None:
        loss = self.loss_of_g(real, self.discriminator(fake()))
        self.optimizer_g.zero_grad()
        loss.backward()
        self.optimizer_g.step()
        self.total_g += loss.item()

    def loss_of_d(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        ones, zeros = torch.ones_like(real_logits), torch.zeros_like(fake_logits)
        if isinstance(self.system.loss, Relativistic):
            return self.criterion(real_logits - fake_logits, ones)
        return self.criterion(real_logits, ones) + self.criterion(fake_logits, zeros)

    def loss_of_g(self, real: Tensor, fake_logits: Tensor) -> Tensor:
        ones, zeros = torch.ones_like(fake_logits), torch.zeros_like(fake_logits)
        if isinstance(self.system.loss, Relativistic):
            return self.criterion(fake_logits - self.discriminator(real), ones)
        if isinstance(self.system.loss, Minimax):
            return -self.criterion(fake_logits, zeros)
        return self.criterion(fake_logits, ones)

    @staticmethod
    def penalty(logits: Tensor, inputs: Tensor) -> Tensor:
        gradient = torch.autograd.grad(outputs=logits.sum(), inputs=inputs, create_graph=True)[0]
        return gradient.pow(2).flatten(1).sum(1).mean()

    def images(self) -> Iterator[Tensor]:
        assert self.system.dataset is not None
        loader = DataLoader(self.system.dataset, batch_size=self.system.batch_size, shuffle=True, drop_last=True)
        while True:
            for images, _ in loader:
                yield (2 * images - 1).to(self.device)


class Limit(Loop):
    """The same updates, as lean as possible."""

    fused = True
    block = BLOCK

    def __init__(self, system: System) -> None:
        super().__init__(system)
        for network in (self.generator, self.discriminator):
            network.to(memory_format=torch.channels_last)
        self.weights_g = list(self.generator.parameters())
        self.weights_d = list(self.discriminator.parameters())

    def update_discriminator(self, real: Tensor, fake: Callable[[], Tensor]) -> None:
        with torch.no_grad():
            real, generated = real.detach(), fake().detach()
        if self.is_penalized:
            real.requires_grad_()
            generated.requires_grad_()
        real_logits, fake_logits = self.discriminator(real), self.discriminator(generated)
        losses = self.system.loss.discriminator(real_logits=real_logits, fake_logits=fake_logits)
        if self.is_penalized:
            losses = losses + self.penalties((real_logits, fake_logits), (real, generated))
        self.step(self.optimizer_d, losses.mean(), self.weights_d)

    def update_generator(self, real: Tensor, fake: Callable[[], Tensor]) -> None:
        for weight in self.weights_d:
            weight.requires_grad_(False)
        fake_logits = self.discriminator(fake())
        real_logits = self.discriminator(real) if self.system.loss.generator_needs_real else None
        losses = self.system.loss.generator(real_logits=real_logits, fake_logits=fake_logits)
        self.step(self.optimizer_g, losses.mean(), self.weights_g)
        for weight in self.weights_d:
            weight.requires_grad_(True)

    @staticmethod
    def step(optimizer: Optimizer, loss: Tensor, weights: list[nn.Parameter]) -> None:
        """Step on the gradients of these weights, by backward(), which is faster than autograd.grad."""
        for weight in weights:
            weight.grad = None
        loss.backward()
        optimizer.step()

    def penalties(self, logits: tuple[Tensor, Tensor], inputs: tuple[Tensor, Tensor]) -> Tensor:
        """R1 on real and R2 on generated samples, (N,), from one backward pass."""
        real, fake = torch.autograd.grad([one.sum() for one in logits], inputs, create_graph=True)
        r1, r2 = real.flatten(1).square().sum(1), fake.flatten(1).square().sum(1)
        return 0.5 * (self.system.r1 * r1 + self.system.r2 * r2)

    def images(self) -> Iterator[Tensor]:
        assert self.system.images is not None
        images, n = self.system.images.to(self.device), self.system.batch_size
        while True:
            order = torch.randperm(len(images), device=self.device)
            for index in order[: len(images) // n * n].split(n):
                yield images.index_select(0, index).float().mul_(2 / 255).sub_(1)


class Graphed(Limit):
    """The same updates on a GPU as a single CUDA graph, captured once and replayed on new samples and latents."""

    def __init__(self, system: System) -> None:
        super().__init__(system)
        for optimizer in (self.optimizer_g, self.optimizer_d):
            for group in optimizer.param_groups:
                group["capturable"] = True
        self.graph: torch.cuda.CUDAGraph | None = None
        self.places: list[Tensor] = []
        self.rounds = 0

    def round(self, real: Tensor, latents: Iterator[Tensor]) -> None:
        new = [real, *(next(latents) for _ in range(1 if self.system.reuse_fakes else 2))]
        if self.graph is not None:
            for place, tensor in zip(self.places, new, strict=True):
                place.copy_(tensor)
            self.graph.replay()
            return
        self.places = [tensor.clone() for tensor in new]
        self.rounds += 1
        if self.rounds <= 3:  # as torch.cuda.graph requires, on another stream before the capture
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                super().round(self.places[0], iter(self.places[1:]))
            torch.cuda.current_stream().wait_stream(stream)
            return
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            super().round(self.places[0], iter(self.places[1:]))


LOOPS: dict[str, type[Loop]] = {"tutorial": Tutorial, "limit": Limit, "graphed": Graphed}
