"""Find how close a single linear layer with leaky ReLU can map U(0, 1)^10 to N(0, 1), however it is trained.

    python scripts/linear_floor.py [seed=0]

Minimizes the Kolmogorov-Smirnov distance and, separately, the Wasserstein distance over the layer's eleven parameters
with the Nelder-Mead method from several starting points, on 10,000 fixed samples. These are estimates of the best that
adversarial training of such a layer could reach.
"""

from gan_lightning.interruption import end_at_once, listen

if __name__ == "__main__":
    listen(end_at_once)  # before the slow imports

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from gan_lightning.checks import SEED, check_values
from gan_lightning.options import read_options

if TYPE_CHECKING:
    from torch import Tensor

SIZE, SAMPLES, STARTS, ITERATIONS = 10, 10_000, 6, 1500


@dataclass
class Options:
    seed: Annotated[int, "seed of the samples and the starting points"] = 0

    def __post_init__(self) -> None:
        check_values(self, seed=SEED)


def floor(distance: "Callable[[Tensor], float]", noise: "Tensor") -> float:
    """The smallest distance found of leaky_relu(u w + b) over w and b."""
    import torch
    from scipy.optimize import minimize
    from torch.nn.functional import leaky_relu

    def of(parameters: list[float]) -> float:
        layer = torch.tensor(parameters, dtype=torch.double)
        return distance(leaky_relu(noise @ layer[:-1] + layer[-1]))

    starts = [
        2 * torch.randn(SIZE + 1, dtype=torch.double) * scale for scale in (1.0, 3.0, 10.0) for _ in range(STARTS)
    ]
    options = {"maxiter": ITERATIONS, "adaptive": True}
    return min(minimize(of, start.tolist(), method="Nelder-Mead", options=options).fun for start in starts)


def floors(seed: int) -> tuple[float, float]:
    """The smallest Kolmogorov-Smirnov and the smallest Wasserstein distance."""
    import torch

    from gan_lightning.distributions import gaussian
    from gan_lightning.metrics.distribution import kolmogorov_smirnov, midpoints, wasserstein

    torch.manual_seed(seed)
    noise = torch.rand(SAMPLES, SIZE, dtype=torch.double)
    truth = gaussian()
    exact = midpoints(truth, SAMPLES)  # once, since they take most of wasserstein's time
    ks = floor(lambda x: kolmogorov_smirnov(x, truth).item(), noise)
    return ks, floor(lambda x: wasserstein(x, exact).item(), noise)


def main() -> None:
    options = read_options(Options, __doc__)
    ks, w1 = floors(options.seed)
    print(f"leaky_relu(W u + b), u in U(0, 1)^{SIZE}: smallest found: ks {ks:.3f}, wasserstein {w1:.3f}")


if __name__ == "__main__":
    main()
