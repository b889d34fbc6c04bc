"""Exact networks: close to the float ones, and the same integers however they are computed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kodim.coding.exact import ExactSequential


def network(seed: int) -> ExactSequential:
    torch.manual_seed(seed)
    return ExactSequential(
        nn.ConvTranspose2d(6, 8, 5, 2, 2, output_padding=1),
        nn.LeakyReLU(),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 5, 5, 2, 2, bias=False),
    )


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 9), st.integers(1, 9), st.floats(0.1, 30))
def test_close_to_the_float_network(seed: int, height: int, width: int, amplitude: float) -> None:
    net = network(seed)
    x = (torch.randn(1, 6, height, width) * amplitude).round()
    with torch.no_grad():
        wanted = net.train()(x)
    got = net.eval()(x)
    assert got.shape == wanted.shape
    torch.testing.assert_close(got, wanted, atol=0.01 + 2e-3 * amplitude, rtol=2e-3)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**16))
def test_identical_under_any_arithmetic(seed: int) -> None:
    net = network(seed).eval()
    x = torch.randint(-40, 40, (3, 6, 7, 5)).float()
    reference = net(x)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(net(x), reference)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(net(x.to(memory_format=torch.channels_last)), reference)
    assert torch.equal(net.to(memory_format=torch.channels_last)(x), reference)
    assert torch.equal(net(x.double()), reference)
    assert torch.equal(torch.cat([net(x[i : i + 1]) for i in range(3)]), reference)
    # Another order of summation: the channels of the first layer, permuted.
    order = torch.randperm(6)
    net[0].weight = nn.Parameter(net[0].weight[order].detach())
    assert torch.equal(net(x[:, order]), reference)


def test_outputs_are_multiples_of_the_step() -> None:
    out = network(3).eval()(torch.randint(-9, 9, (1, 6, 4, 4)).float())
    assert torch.equal(out * 1024, (out * 1024).round())
    assert out.abs().max() > 0


def test_sums_beyond_two_to_the_53_are_refused() -> None:
    layer = nn.Conv2d(64, 1, 3)
    nn.init.constant_(layer.weight, 1e4)
    with pytest.raises(ValueError, match="exact"):
        ExactSequential(layer).eval()(torch.zeros(1, 64, 8, 8))


def test_unknown_layers_are_refused() -> None:
    with pytest.raises(TypeError, match="Tanh"):
        ExactSequential(nn.Tanh()).eval()(torch.zeros(1, 1, 2, 2))


def test_a_slice_is_exact_too() -> None:
    torch.manual_seed(0)
    net = ExactSequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    x = torch.randn(1, 3, 5, 5)
    assert torch.equal(net[1:](net[:1](x)), net(x))
    assert not net[:2].training
