"""What k GANs trained as one batched computation cost, against the same k one after another; and whether they agree.

    python scripts/seeds_at_once.py

GANs like those of experiment=gaussian_tutorial and gaussian_mlp, with Adam, from k seeds: torch.func.vmap over stacked
weights, one optimizer over all of them, against the leanest loop of one. Prints microseconds of the processor for a
round of all k, the ratio of the two, and the largest difference of any weight after 20 rounds in double precision.
"""

import argparse
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import softplus

from gan_lightning.networks import linear, mlp

N = 256
LATENT = 10
SEEDS = (1, 4, 8, 32)
ROUNDS = 200
MAKERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "one layer each": (lambda: linear.Generator(LATENT, (1,)), lambda: linear.Discriminator((1,))),
    "64-64 hidden": (
        lambda: mlp.Generator(LATENT, (1,), [64, 64], batch_norm=False),
        lambda: mlp.Discriminator((1,), [64, 64]),
    ),
}
Weights = Mapping[str, Tensor]
Forward = Callable[[Weights, Tensor], Tensor]


def train(pair: tuple[Weights, Weights], forwards: tuple[Forward, Forward], reals: Tensor, latents: Tensor) -> None:
    """Rounds of reals, (rounds, [k,] N, 1), and latents, (rounds, 2, [k,] N, size), on weights of one GAN or of k."""
    (of_g, of_d), (g, d) = pair, forwards
    optimizers = [torch.optim.Adam(weights.values(), 1e-3, (0.0, 0.99), fused=True) for weights in pair]
    for real, (for_d, for_g) in zip(reals, latents, strict=True):
        with torch.no_grad():
            fake = g(of_g, for_d)
        step(of_d, optimizers[1], softplus(-d(of_d, real)) + softplus(d(of_d, fake)))
        for weight in of_d.values():
            weight.requires_grad_(False)
        step(of_g, optimizers[0], softplus(-d(of_d, g(of_g, for_g))))
        for weight in of_d.values():
            weight.requires_grad_(True)


def step(weights: Weights, optimizer: torch.optim.Optimizer, losses: Tensor) -> None:
    """Descend each GAN's own mean, whose sum has every GAN's own gradient."""
    for weight in weights.values():
        weight.grad = None
    losses.mean(-1).sum().backward()
    optimizer.step()


def own(network: nn.Module) -> Forward:
    """The network with the weights that it has."""
    return lambda weights, inputs: network(inputs)


def given(network: nn.Module) -> Forward:
    """The network as a function of its weights too."""
    return lambda weights, inputs: functional_call(network, dict(weights), (inputs,))


def compare(kind: str, k: int, rounds: int, dtype: torch.dtype) -> tuple[float, float, float]:
    """Microseconds a round of k GANs one after another and at once, and the largest difference of their weights."""
    make_g, make_d = MAKERS[kind]
    torch.manual_seed(0)
    networks = [(make_g().to(dtype), make_d().to(dtype)) for _ in range(k)]
    stacked = stack_module_state([g for g, _ in networks])[0], stack_module_state([d for _, d in networks])[0]
    reals, latents = torch.randn(rounds, k, N, 1, dtype=dtype), torch.rand(rounds, 2, k, N, LATENT, dtype=dtype)

    began = time.thread_time()
    for i, (g, d) in enumerate(networks):
        weights = dict(g.named_parameters()), dict(d.named_parameters())
        train(weights, (own(g), own(d)), reals[:, i], latents[:, :, i])
    middle = time.thread_time()
    train(stacked, (vmap(given(g)), vmap(given(d))), reals, latents)
    ended = time.thread_time()

    gaps = [
        (together[name][i] - weight).abs().max().item()
        for i, pair in enumerate(networks)
        for together, network in zip(stacked, pair, strict=True)
        for name, weight in network.named_parameters()
    ]
    return 1e6 * (middle - began) / rounds, 1e6 * (ended - middle) / rounds, max(gaps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    torch.set_num_threads(1)
    print("| networks | seeds | one after another, us | at once, us | ratio | difference |")
    print("| --- | --- | --- | --- | --- | --- |")
    for kind in MAKERS:
        for k in SEEDS:
            compare(kind, k, 20, torch.float32)
            apart, together, _ = compare(kind, k, ROUNDS, torch.float32)
            gap = compare(kind, k, 20, torch.float64)[2]
            print(f"| {kind} | {k} | {apart:.0f} | {together:.0f} | {apart / together:.2f} | {gap:.1g} |", flush=True)


if __name__ == "__main__":
    main()
