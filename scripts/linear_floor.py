"""How close one linear layer with leaky ReLU can come to N(0, 1) from U(0, 1)^10, whatever trains it.

    python scripts/linear_floor.py [--seed 0]

Minimizes the Kolmogorov-Smirnov distance and, separately, the Wasserstein distance over the layer's eleven numbers,
by Nelder and Mead from several starts, on 10,000 fixed samples. No adversarial training of that layer can do better.
"""

import argparse
from collections.abc import Callable

import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import leaky_relu

from gan_lightning.distributions import gaussian
from gan_lightning.metrics.distribution import kolmogorov_smirnov, quantile

SIZE, SAMPLES, STARTS = 10, 10_000, 6


def floor(distance: Callable[[Tensor], float], noise: Tensor) -> float:
    """The smallest distance found of leaky_relu(u w + b) over w and b."""

    def of(parameters: list[float]) -> float:
        layer = torch.tensor(parameters, dtype=torch.double)
        return distance(leaky_relu(noise @ layer[:-1] + layer[-1]))

    starts = [
        2 * torch.randn(SIZE + 1, dtype=torch.double) * scale for scale in (1.0, 3.0, 10.0) for _ in range(STARTS)
    ]
    options = {"maxiter": 1500, "adaptive": True}
    return min(minimize(of, start.tolist(), method="Nelder-Mead", options=options).fun for start in starts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    torch.manual_seed(parser.parse_args().seed)
    noise = torch.rand(SAMPLES, SIZE, dtype=torch.double)
    truth = gaussian()
    exact = quantile(truth, (torch.arange(SAMPLES, dtype=torch.double) + 0.5) / SAMPLES)
    ks = floor(lambda x: kolmogorov_smirnov(x, truth).item(), noise)
    w1 = floor(lambda x: (x.sort().values - exact).abs().mean().item(), noise)
    print(f"leaky_relu(W u + b), u in U(0, 1)^{SIZE}: smallest found: ks {ks:.3f}, wasserstein {w1:.3f}")


if __name__ == "__main__":
    main()
