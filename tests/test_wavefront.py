"""Wavefronts: the same values as a raster scan, position by position, in every mode."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kodim.codec import Codec
from kodim.coding.priors import ScalePrior
from kodim.coding.sites import BoundPrior, Code, Decode, Encode, Estimate, Train
from kodim.coding.wavefront import causal_taps, fronts
from kodim.contexts.quad import QuadContext
from kodim.contexts.raster import RasterContext

SIZES = [(1, 1), (1, 7), (7, 1), (2, 2), (5, 9), (9, 4)]
UNIT = 2.0**-10


pytestmark = pytest.mark.usefixtures("one_thread")


def causal(y: int, x: int, h: int, w: int, radius: int) -> list[tuple[int, int]]:
    """What a position sees of a grid, in raster order."""
    window = [(y + dy, x + dx) for dy in range(-radius, 1) for dx in range(-radius, radius + 1)]
    return [(a, b) for a, b in window[: causal_taps(radius)] if 0 <= a < h and 0 <= b < w]


@pytest.mark.parametrize("radius", [1, 2, 3])
@pytest.mark.parametrize("size", SIZES)
def test_fronts_are_independent_and_complete(size: tuple[int, int], radius: int) -> None:
    h, w = size
    when = np.full(h * w, -1)
    steps = fronts(h, w, radius)
    for step, front in enumerate(steps):
        when[front.numpy()] = step
    assert sum(map(len, steps)) == h * w
    assert len(steps) <= w + (radius + 1) * (h - 1)
    for y in range(h):
        for x in range(w):
            assert all(when[a * w + b] < when[y * w + x] for a, b in causal(y, x, h, w, radius))


def test_a_paper_size_latent_takes_141_steps() -> None:
    assert len(fronts(32, 48)) == 48 + 3 * 31 == 141


class Toy(Codec):
    """Latents of two channels, as they come in the picture, with a context of their own."""

    stride = 1

    def __init__(self, residual: bool = False) -> None:
        super().__init__()
        self.context = RasterContext(2, 4, 6, (5,), 4, residual=residual)
        with torch.no_grad():
            for p in self.context.parameters():
                p.copy_(torch.randn(p.shape) * 0.3)
        self.prior = ScalePrior("gaussian")

    def program(self, code: Code) -> Tensor:
        side = torch.linspace(-2, 2, 4 * code.size[0] * code.size[1]).reshape(1, 4, *code.size)
        side = torch.round(side / UNIT) * UNIT
        y = code.encoder(lambda x: 12 * x[:, :2])
        y_hat = self.context(code, "y", side.expand(len(code.level), -1, -1, -1), self.bind, lambda: y)
        return torch.cat((y_hat, y_hat[:, :1]), 1)

    def bind(self, parameters: Tensor):  # type: ignore[no-untyped-def]
        scale, mean = parameters.chunk(2, 1)
        return self.prior(18 + 8 * scale, mean)


def by_raster_scan(codec: Toy, y: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Decoded values (2, h, w) in Python's integers, a position at a time: an independent reading of the paper."""
    h, w = y.shape[1:]
    net = codec.context

    def fixed(p: Tensor, bits: int) -> np.ndarray:
        return np.floor(p.detach().numpy().astype(np.float64) * 2**bits + 0.5).astype(np.int64)

    def rescale(sums: np.ndarray) -> np.ndarray:
        return (sums + (1 << 13)) >> 14

    done = np.zeros((2, h, w), dtype=np.int64)
    for row in range(h):
        for column in range(w):
            total = fixed(net.bias, 24)
            for tap, (dy, dx) in enumerate([(dy, dx) for dy in range(-2, 1) for dx in range(-2, 3)][:12]):
                a, b = row + dy, column + dx
                if 0 <= a < h and 0 <= b < w:
                    total = total + fixed(net.weight, 14)[:, :, 0, tap] @ done[:, a, b]
            given = fixed(torch.from_numpy(side[:, row, column]), 10)
            v = np.concatenate([given, rescale(total)])
            for i, layer in enumerate(m for m in net.join if isinstance(m, nn.Conv2d)):
                if i:
                    v = np.where(v < 0, rescale(v * round(0.01 * 2**14)), v)
                v = rescale(fixed(layer.weight, 14)[:, :, 0, 0] @ v + fixed(layer.bias, 24))
            mean = (v + given if net.residual else v)[2:]
            q = np.round(y[:, row, column].astype(np.float64) - mean * UNIT)
            done[:, row, column] = (q * 2**10).astype(np.int64) + mean
    return done * UNIT


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (6, 5), (3, 8)])
def test_fronts_give_what_a_raster_scan_gives(size: tuple[int, int], residual: bool) -> None:
    torch.manual_seed(3)
    codec = Toy(residual).eval()
    x = torch.rand(1, 3, *size) * 4 - 2
    side = torch.round(torch.linspace(-2, 2, 4 * size[0] * size[1]) / UNIT) * UNIT
    expected = by_raster_scan(codec, (12 * x[0, :2]).numpy(), side.reshape(4, *size).numpy())
    level = torch.zeros(1)
    encode = Encode(x, level)
    for code in (encode, Estimate(x, level)):
        np.testing.assert_array_equal(codec.program(code)[0, :2].numpy(), expected)
    for dtype in (torch.float32, torch.float64):
        decode = Decode(encode.writer.bytes(), size, level, dtype)
        np.testing.assert_array_equal(codec.program(decode)[0, :2].numpy(), expected)
        assert decode.crc == encode.crc


def test_a_batch_is_estimated_as_its_pictures_alone() -> None:
    torch.manual_seed(4)
    codec = Toy().eval()
    x = torch.rand(3, 3, 7, 6)
    together = Estimate(x, torch.zeros(3))
    y_hat = codec.program(together)
    for i in range(3):
        alone = Estimate(x[i : i + 1], torch.zeros(1))
        assert torch.equal(codec.program(alone)[0], y_hat[i])
        assert float(alone.bits["y"]) == pytest.approx(float(together.bits["y"][i]))


def test_all_positions_at_once_predict_the_same_from_decoded_values() -> None:
    """Exact arithmetic knows no batching: the estimate could predict in one go, had it the decoded values."""
    torch.manual_seed(5)
    net = Toy().eval().context
    neighbours = torch.randint(-(2**20), 2**20, (1, 500, 24)).double()
    side = torch.randint(-(2**12), 2**12, (1, 500, 4)).double()
    whole = net._predict(neighbours, side)
    for part in (slice(0, 1), slice(3, 20), slice(100, 500)):
        assert torch.equal(net._predict(neighbours[:, part], side[:, part]), whole[:, part])


def test_a_position_sees_only_what_comes_before_it() -> None:
    """While training too, where all positions are done at once."""
    torch.manual_seed(6)
    net = Toy().context
    x = torch.randn(1, 2, 6, 7)
    before = net._convolve(x)
    x[0, :, 3, 4] += 1
    changed = (net._convolve(x) != before).any(1)[0]
    seen_from = {(y, c) for y in range(6) for c in range(7) if (3, 4) in causal(y, c, 6, 7, 2)}
    assert {(int(y), int(c)) for y, c in changed.nonzero()} == seen_from


def test_integer_and_float_networks_agree() -> None:
    torch.manual_seed(7)
    codec = Toy().eval()
    y_hat, side = torch.randint(-40, 40, (1, 2, 5, 6)) / 4, torch.randint(-40, 40, (1, 4, 5, 6)) / 8
    floats = codec.context.join(torch.cat((side, codec.context._convolve(y_hat)), 1))
    padded = nn.functional.pad(y_hat, (2, 2, 2, 0))
    taps = [padded[:, :, dy : dy + 5, dx : dx + 6] for dy in range(3) for dx in range(5)][:12]
    rows = torch.cat(taps, 1).flatten(2).transpose(1, 2)
    exact = codec.context._predict(rows.double() / UNIT, side.flatten(2).transpose(1, 2).double() / UNIT) * UNIT
    torch.testing.assert_close(exact.float().transpose(1, 2).reshape(floats.shape), floats, atol=0.02, rtol=0.01)


def test_changed_weights_are_noticed() -> None:
    torch.manual_seed(8)
    codec = Toy().eval()
    x = torch.rand(1, 3, 5, 5)
    before = codec(x).bits["y"]
    with torch.no_grad():
        codec.context.bias.add_(1)
    assert codec(x).bits["y"] != before


def test_weights_too_large_for_exact_sums_are_refused() -> None:
    codec = Toy().eval()
    with torch.no_grad():
        codec.context.weight.fill_(1e7)
    with pytest.raises(ValueError, match="exact"):
        codec(torch.rand(1, 3, 4, 4))


def test_context_learns_what_neighbours_tell() -> None:
    """On a random walk, whose next value is the last one plus noise, the context saves most of the bits."""
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.normal(0, 1.5, (8, 3, 12, 24)), 3).clip(-60, 60) / 12
    x = torch.from_numpy(walk).float()
    torch.manual_seed(9)
    codec = Toy().train()
    with torch.no_grad():
        codec.context.weight.mul_(0.1)
    optimiser = torch.optim.Adam(codec.parameters(), 0.02)
    for _ in range(150):
        optimiser.zero_grad()
        codec(x).bpp.mean().backward()
        optimiser.step()
    codec.eval()
    learned = float(codec(x).bpp.mean())
    blind = float(np.log2(np.std(12 * walk[:, :2]) * np.sqrt(2 * np.pi * np.e)) * 2)  # both channels, one Gaussian
    assert learned < 0.8 * blind
    with torch.no_grad():
        codec.context.weight.zero_()
    assert float(codec(x).bpp.mean()) > 1.3 * learned


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 2), (6, 7)])
def test_quad_context_says_the_same_in_passes_as_at_once(size: tuple[int, int]) -> None:
    torch.manual_seed(4)
    net = QuadContext(3, 2, 8, (8,), 6)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    y, side = torch.randn(2, 3, *size).mul(3).round(), torch.randn(2, 2, *size)
    prior, seen = ScalePrior("gaussian"), torch.zeros(2, 6, *size)

    def bind(parameters: Tensor) -> BoundPrior:
        if isinstance(code, Estimate):
            assert code.part is not None
            seen.flatten(2)[:, :, code.part[0]] = parameters[..., 0].float()
        return prior(18 + parameters[:, :3])

    code: Code = Estimate(torch.zeros(2, 3, 16, 16), torch.zeros(2))
    decoded = net.eval()(code, "y", side, bind, lambda: y)
    assert torch.equal(decoded, y)
    torch.testing.assert_close(net.train()._at_once(y, side), seen, atol=0.02, rtol=0.02)
    code = Train(torch.zeros(2, 3, 16, 16), torch.zeros(2))
    net(code, "y", side, bind, lambda: y)
    assert code.bits["y"].shape == (2,)
