"""scripts/seeds_at_once.py: GANs trained as one computation are those trained one by one."""

from importlib import import_module
from types import ModuleType

import pytest
import torch
from conftest import ROOT


@pytest.fixture(scope="module")
def script() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        return import_module("seeds_at_once")


@pytest.mark.parametrize("kind", ["one layer each", "64-64 hidden"])
def test_at_once_is_one_by_one(script: ModuleType, kind: str) -> None:
    apart, together, gap = script.compare(kind, 3, 10, torch.float64)
    assert gap < 1e-12
    assert min(apart, together) > 0


def test_the_updates_are_adams_on_the_written_out_losses(script: ModuleType) -> None:
    torch.manual_seed(1)
    w, b = (torch.randn(1, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    pair = {"w": w}, {"b": b}
    forwards = (lambda p, z: z @ p["w"].T), (lambda p, x: (x @ p["b"][:, :1])[:, 0] + p["b"][0, 1])
    real, latents = torch.randn(1, 5, 1, dtype=torch.float64), torch.randn(1, 2, 5, 2, dtype=torch.float64)

    def d(x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(b[0, 0] * x[:, 0] + b[0, 1])

    b0, w0 = b.detach().clone().requires_grad_(), w.detach().clone().requires_grad_()
    fake = latents[0, 0] @ w0.detach().T
    loss = -(d(real[0], b0).log() + (1 - d(fake, b0)).log()).mean()
    b1 = b0 - 1e-3 * torch.autograd.grad(loss, b0)[0].sign()  # Adam's first step
    loss = -d(latents[0, 1] @ w0.T, b1.detach()).log().mean()
    w1 = w0 - 1e-3 * torch.autograd.grad(loss, w0)[0].sign()
    script.train(pair, forwards, real, latents)
    torch.testing.assert_close((w.detach(), b.detach()), (w1.detach(), b1.detach()), rtol=0, atol=1e-8)
