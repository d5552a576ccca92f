"""The moving average against its recurrence, worked out tensor by tensor."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.testing import assert_close

from gan_lightning.ema import MovingAverage
from gan_lightning.errors import UsageError

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).double()


def wander(net: nn.Module) -> None:
    """Change every weight, running statistic and counter, as a training step does."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += torch.randn_like(parameter)
    net(torch.randn(8, 3, dtype=torch.double))


def follow(average: MovingAverage, net: nn.Module, updates: int) -> list[dict[str, Tensor]]:
    """The network's states at each of the updates."""
    states = []
    average.follow(net)
    for step in range(updates):
        wander(net)
        average.update(step)
        states.append(deepcopy(net.state_dict()))
    return states


@pytest.mark.parametrize(("decay", "warmup"), [(0.9, False), (0.5, False), (0.999, True), (0.3, True)])
def test_recurrence(decay: float, warmup: bool) -> None:
    net = network()
    average = MovingAverage(net, decay, warmup)
    expected = deepcopy(net.state_dict())
    for n, state in enumerate(follow(average, net, 12)):
        d = min(decay, (1 + n) / (10 + n)) if warmup else decay
        expected = {k: d * expected[k] + (1 - d) * v if v.is_floating_point() else v for k, v in state.items()}
    actual = average.network.state_dict()
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(actual[name], value, **EXACT)
    # the recurrence says nothing unless the statistics have moved
    assert actual["1.running_mean"].abs().max() > 1e-3


def test_weighted_sum() -> None:
    """a_n = d^n a_0 + sum_k (1 - d) d^(n-1-k) w_k."""
    net, d, n = network(), 0.8, 6
    average = MovingAverage(net, d, warmup=False)
    expected = d**n * net[0].weight.detach()
    for k, state in enumerate(follow(average, net, n)):
        expected = expected + (1 - d) * d ** (n - 1 - k) * state["0.weight"]
    assert_close(average.network[0].weight, expected, **EXACT)


def test_counters_are_copied() -> None:
    net = network()
    average = MovingAverage(net, 0.9)
    follow(average, net, 7)
    assert net[1].num_batches_tracked == 7
    assert average.network[1].num_batches_tracked == 7


def test_warmup_forgets_the_start() -> None:
    """The first update keeps a tenth of the first weights; the decay rules once (1 + n)/(10 + n) has reached it."""
    net = network()
    start = net[0].weight.detach().clone()
    warm, cold = MovingAverage(net, 0.999), MovingAverage(net, 0.999, warmup=False)
    with torch.no_grad():
        net[0].weight.zero_()
    for each in (warm, cold):
        each.follow(net)
        each.update(0)
    assert_close(warm.network[0].weight, 0.1 * start, **EXACT)
    assert_close(cold.network[0].weight, 0.999 * start, **EXACT)
    late = MovingAverage(net, 0.999)
    late.network.load_state_dict(cold.network.state_dict())
    late.follow(net)
    late.update(8_990)  # 8,991 / 9,000 is .999
    assert_close(late.network[0].weight, 0.999 * 0.999 * start, **EXACT)


def test_the_network_is_left_alone() -> None:
    net = network()
    average = MovingAverage(net, 0.9)
    assert all(p.requires_grad for p in net.parameters())
    wander(net)
    before = deepcopy(net.state_dict())
    average.follow(net)
    average.update(0)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    shared = {p.data_ptr() for p in net.parameters()} & {p.data_ptr() for p in average.network.parameters()}
    assert not shared


def test_the_average_takes_no_gradient() -> None:
    net = network()
    average = MovingAverage(net, 0.9)
    average.follow(net)
    average.update(0)
    assert not any(p.requires_grad for p in average.parameters())
    assert not average.network(torch.randn(4, 3, dtype=torch.double)).requires_grad


def test_state_goes_on_in_another_average() -> None:
    net = network()
    average = MovingAverage(net, 0.9)
    follow(average, net, 3)
    other = MovingAverage(network(), 0.9)
    other.load_state_dict(average.state_dict())
    wander(net)
    for each in (average, other):
        each.follow(net)
        each.update(3)
    for name, value in average.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


@pytest.mark.parametrize("decay", [0.0, 1.0, 1.5, -0.1])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=rf"^ema_decay is {decay}"):
        MovingAverage(network(), decay)


def test_a_spectrally_normalized_network_stays_normalized() -> None:
    """Means of singular vectors would be shorter than 1, and every layer larger by as much."""
    torch.manual_seed(0)
    net = nn.Sequential(spectral_norm(nn.Linear(6, 32)), nn.ReLU(), spectral_norm(nn.Linear(32, 2))).double()
    average = MovingAverage(net, 0.99)
    average.follow(net)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for step in range(200):
        optimizer.zero_grad()
        x = torch.randn(16, 6, dtype=torch.double)
        (net(x) - x[:, :2].sin()).square().mean().backward()
        optimizer.step()
        average.update(step)
    averaged = average.network.eval()
    for layer in (averaged[0], averaged[2]):
        largest = torch.linalg.matrix_norm(layer.weight, 2).item()
        assert largest == pytest.approx(1.0, abs=0.05)
        assert layer.parametrizations.weight[0]._u.norm().item() == pytest.approx(1.0, abs=1e-9)


def test_a_statistic_that_a_network_assigns_is_averaged() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2).double()
            self.register_buffer("running_mean", torch.zeros(2, dtype=torch.double))
            self.register_buffer("calls", torch.zeros((), dtype=torch.long))

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            self.running_mean = 0.9 * self.running_mean + 0.1 * y.detach().mean(0)
            self.calls = self.calls + 1
            return y

    net = Mean()
    average = MovingAverage(net, 0.5, warmup=False)
    expected = net.running_mean
    for state in follow(average, net, 6):
        expected = 0.5 * expected + 0.5 * state["running_mean"]
    assert_close(average.network.running_mean, expected, **EXACT)
    assert average.network.calls == 6


def test_complex_weights_are_averaged() -> None:
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 2, dtype=torch.cdouble))

        def forward(self, x: Tensor) -> Tensor:
            return (x.to(self.weight) @ self.weight).real

    net = Complex()
    average = MovingAverage(net, 0.5, warmup=False)
    expected = net.weight.detach().clone()
    for state in follow(average, net, 4):
        expected = 0.5 * expected + 0.5 * state["weight"]
    assert_close(average.network.weight.detach(), expected, **EXACT)
    deepcopy(average)


def test_lazy_layers_are_refused() -> None:
    with pytest.raises(UsageError, match="the generator has lazy layers: call it on latents first"):
        MovingAverage(nn.LazyLinear(2), 0.9)
