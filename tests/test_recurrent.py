"""Recurrent cells, binary codes and their entropy coders; what the papers state of each system by construction."""

import io
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import kodim
from kodim.coding.sites import Decode, Encode, Estimate
from kodim.contexts.binary import AdaptiveBits, BinaryRNN, BitCoder, RawBits
from kodim.learned import to_tensor
from kodim.quantizers.binary import binarize, decide
from kodim.registry import create
from kodim.restore import _open, _quantisers
from kodim.systems.baig2017 import Baig2017, Decoder
from kodim.systems.ororbia2018 import DeltaRNN, Ororbia2018, quantisers, to_coefficients, to_pixels
from kodim.systems.toderici2016 import Toderici2016
from kodim.transforms.recurrent import CELLS, RESIDUAL, Recurrent, bound, encoder, product
from kodim.transforms.windows import Canvas, degrade, join, split

RECURRENT = ["toderici2016", "toderici2017", "islam2021", "johnston2018", "covell2017", "minnen2017", "baig2017"]


def tiny(slug: str, seed: int = 0) -> kodim.codec.Codec:  # type: ignore[name-defined]
    torch.manual_seed(seed)
    return create(slug, preset="test", pretrained=False)


# Cells


def by_gate(cell: torch.nn.Module, x: Tensor, h: Tensor, gates: int) -> list[Tensor]:
    """W x + U h of each gate, one convolution each."""
    w, u = (layer.weight.chunk(gates) for layer in (cell.input, cell.hidden))
    return [
        F.conv2d(x, w[i], stride=cell.input.stride, padding=cell.input.padding)
        + F.conv2d(h, u[i], padding=cell.hidden.padding)
        for i in range(gates)
    ]


def test_lstm_is_the_textbooks() -> None:
    for name, forget in (("lstm", 0.0), ("forgetful", 1.0)):
        torch.manual_seed(1)
        cell = CELLS[name](3, 8, hidden=3, stride=2)
        x = torch.randn(2, 3, 8, 6)
        h = c = torch.zeros(2, 8, 4, 3)
        state = None
        for _ in range(3):
            i, f, j, o = by_gate(cell, x, h, 4)
            c = torch.sigmoid(f + forget) * c + torch.sigmoid(i) * torch.tanh(j)
            h = torch.sigmoid(o) * torch.tanh(c)
            out, state = cell(x, state)
            torch.testing.assert_close(out, h)
            torch.testing.assert_close(state[1], c)


def test_gru_and_residual_gru_are_the_papers() -> None:
    for name in ("gru", "residual-gru"):
        torch.manual_seed(2)
        cell = CELLS[name](4, 6)
        x, h, state = torch.randn(1, 4, 5, 5), torch.zeros(1, 6, 5, 5), None
        w, u = cell.input.weight.chunk(3), cell.hidden.weight.chunk(3)
        for _ in range(3):
            z = torch.sigmoid(F.conv2d(x, w[0], padding=1) + F.conv2d(h, u[0]))
            r = torch.sigmoid(F.conv2d(x, w[1], padding=1) + F.conv2d(h, u[1]))
            new = (1 - z) * h + z * torch.tanh(F.conv2d(x, w[2], padding=1) + F.conv2d(r * h, u[2]))
            if name == "residual-gru":
                new = new + RESIDUAL * cell.skip_hidden(h)
            out, state = cell(x, state)
            h = new
            torch.testing.assert_close(state[0], h)
            torch.testing.assert_close(out, h + RESIDUAL * cell.skip_input(x) if name == "residual-gru" else h)


def test_associative_lstm_computes_with_complex_numbers() -> None:
    torch.manual_seed(3)
    cell = CELLS["associative"](4, 6)
    x, state = 2 * torch.randn(1, 4, 3, 3), None
    c = torch.zeros(1, 3, 3, 3, dtype=torch.complex64)
    h = torch.zeros(1, 6, 3, 3)

    def bounded(z: Tensor) -> Tensor:
        return z / z.abs().clamp_min(1)

    for _ in range(3):
        values = cell.input(x) + cell.hidden(h)
        f, i, o = torch.sigmoid(values[:, :9]).chunk(3, 1)
        j, key_in, key_out = (bounded(torch.complex(*v.chunk(2, 1))) for v in values[:, 9:].chunk(3, 1))
        c = f * c + key_in * i * j
        y = o * bounded(key_out * c)
        h = torch.cat((y.real, y.imag), 1)
        out, state = cell(x, state)
        torch.testing.assert_close(out, h)
    torch.testing.assert_close(product(h, h), torch.cat(((y * y).real, (y * y).imag), 1))
    assert float(bound(100 * h.detach()).unflatten(1, (2, 3)).norm(dim=1).max()) <= 1 + 1e-6


def test_a_recurrent_network_remembers_and_forgets() -> None:
    torch.manual_seed(4)
    net = encoder((4, 4, 4, 4), "lstm", (1, 1, 1), 8)
    x = torch.randn(1, 3, 32, 32)
    first, memory = net(x)
    second, _ = net(x, memory)
    assert first.shape == (1, 8, 2, 2)
    assert float(first.detach().abs().max()) <= 1
    assert not torch.equal(first, second)
    assert torch.equal(net(x)[0], first)
    assert len(memory) == 3
    assert isinstance(net, Recurrent)


def test_delta_rnn_step_is_the_papers() -> None:
    torch.manual_seed(5)
    cell = DeltaRNN(3, 5, kernel=1)
    x, s = torch.randn(1, 3, 2, 2), torch.randn(1, 5, 2, 2)
    out, _ = cell(x, (s,))
    seen, own = cell.input(x), cell.hidden(s)
    z = torch.tanh(2 * own * seen + 0.5 * own + 0.5 * seen)
    g = torch.sigmoid(seen)
    torch.testing.assert_close(out, torch.tanh((1 - g) * z + g * s))


# Binary codes


def test_binarisation() -> None:
    u = torch.tensor([-1.0, -0.5, -0.0, 0.0, 0.5, 1.0], requires_grad=True)
    assert decide(u).tolist() == [-1, -1, 1, 1, 1, 1]
    torch.manual_seed(0)
    drawn = binarize(u.detach().expand(20000, 6), stochastic=True)
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(drawn.mean(0), u.detach(), atol=0.03, rtol=0)
    for stochastic in (True, False):
        (grad,) = torch.autograd.grad((binarize(u, stochastic=stochastic) * torch.arange(6.0)).sum(), u)
        assert grad.tolist() == list(range(6))


def coded(coder: BitCoder, planes: list[Tensor], active: list[Tensor] | None = None) -> tuple[float, float]:
    """Bits of the estimate and of the file; what is decoded is checked."""
    size = (planes[0].shape[2] * coder.stride, planes[0].shape[3] * coder.stride)
    level, x = torch.zeros(1), torch.zeros(1, 3, *size)
    count = torch.tensor([len(planes)])

    def run(code) -> list[Tensor]:  # type: ignore[no-untyped-def]
        memory, out = None, []
        for k in code.layers(count):
            value, memory = coder(code, k, lambda k=k: planes[k], memory, active and active[k])
            out.append(value)
            code.show(x)
        return out

    estimate, encode = Estimate(x, level), Encode(x, level)
    run(estimate), run(encode)
    first, *later = [data for data, _ in encode.passes]
    decode = Decode(first, size, level, torch.float32, later)
    assert all(torch.equal(a, b) for a, b in zip(run(decode), planes, strict=True))
    assert decode.crcs == [crc for _, crc in encode.passes]
    return float(estimate.bits["y"]), 8.0 * sum(len(data) for data, _ in encode.passes)


@pytest.mark.parametrize("kind", [RawBits, AdaptiveBits, BinaryRNN])
def test_coders_round_trip_and_estimate(kind: type[BitCoder]) -> None:
    torch.manual_seed(0)
    coder = kind(3, 5, 16).eval()
    for p in coder.parameters():
        p.data += 0.1 * torch.randn_like(p)
    planes = [torch.randint(0, 2, (1, 5, 7, 9)).float() - 0.5 for _ in range(3)]
    estimate, file = coded(coder, planes)
    assert abs(file - estimate) <= 0.001 * estimate + 64
    if kind is RawBits:
        assert estimate == 3 * 5 * 7 * 9


def test_adaptive_contexts_approach_the_entropy() -> None:
    """Independent bits of probability 0.1, and bits that repeat the one above with probability 0.95."""
    rng = np.random.default_rng(0)
    coder = AdaptiveBits(1, 4, 16).eval()

    def entropy(p: float) -> float:
        return -p * math.log2(p) - (1 - p) * math.log2(1 - p)

    skewed = torch.from_numpy(rng.random((1, 4, 96, 288)) < 0.1).float() - 0.5
    assert coded(coder, [skewed])[0] / skewed.numel() == pytest.approx(entropy(0.1), rel=0.05)
    flips = rng.random((1, 4, 96, 96)) < 0.05
    striped = torch.from_numpy(np.cumsum(flips, 2) % 2).float() - 0.5
    assert coded(coder, [striped])[0] / striped.numel() == pytest.approx(entropy(0.05), rel=0.12)


def test_bits_that_are_not_there_cost_nothing() -> None:
    torch.manual_seed(0)
    active = [torch.rand(1, 1, 8, 8) < 0.3 for _ in range(2)]
    planes = [torch.where(on, torch.randint(0, 2, (1, 4, 8, 8)) - 0.5, -0.5) for on in active]
    estimate, _ = coded(RawBits(2, 4, 16), planes, active)
    assert estimate == 4 * sum(int(on.sum()) for on in active)
    estimate, _ = coded(AdaptiveBits(2, 4, 16).eval(), planes, active)
    assert estimate < 4.4 * sum(int(on.sum()) for on in active)


def test_bit_network_learns_what_repeats() -> None:
    torch.manual_seed(0)
    coder = BinaryRNN(2, 4, 16, width=16, radius=1).train()
    optimiser = torch.optim.Adam(coder.parameters(), lr=1e-2)
    from kodim.coding.sites import Train

    for _ in range(60):
        plane = (torch.rand(4, 4, 1, 8) < 0.5).float().expand(4, 4, 8, 8) - 0.5  # all rows alike
        code, memory = Train(torch.zeros(4, 3, 128, 128), torch.zeros(4)), None
        for k in range(2):
            _, memory = coder(code, k, lambda plane=plane: plane, memory)
        loss = code.bits["y"].mean() / plane[0].numel()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    plane = ((torch.rand(1, 4, 1, 8) < 0.5).float().expand(1, 4, 8, 8) - 0.5).contiguous()
    estimate, file = coded(coder.eval(), [plane, plane])
    assert estimate < 0.4 * 2 * plane.numel()  # the first rows are news, the rest is not
    assert abs(file - estimate) <= 0.001 * estimate + 64


# Systems


@pytest.mark.parametrize("kind", ["lstm", "gru", "residual-gru"])
def test_straight_cells_pass_small_inputs_whatever_they_have_seen(kind: str) -> None:
    torch.manual_seed(0)
    cell = CELLS[kind](4, 8)
    weight, lift = cell.straighten()
    with torch.no_grad():
        for silent in (cell.input, *(getattr(cell, n) for n in ("skip_input", "skip_hidden") if hasattr(cell, n))):
            silent.weight.zero_()
        weight.copy_(lift * torch.randn(8, 4, 3, 3) / 6)
        x, y = 0.02 * torch.randn(2, 1, 4, 8, 8)
        _, state = cell(x, None)
        again, _ = cell(y, state)
        straight = F.conv2d(y, weight / lift, padding=1)
        assert (again - straight).norm() < 0.05 * straight.norm()


@pytest.mark.parametrize("slug", ["toderici2017", "islam2021", "covell2017", "johnston2018"])
def test_compact_loops_start_as_coders_of_dct_signs(slug: str, photo: np.ndarray) -> None:
    torch.manual_seed(0)
    codec = create(slug, preset="compact", pretrained=False).eval()
    codec.freeze()
    x = to_tensor(photo)
    errors = [float((x - picture).square().mean()) for picture in codec(x, 100.0).pictures]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.2 * errors[0]


@pytest.mark.parametrize("slug", RECURRENT)
def test_training_reduces_the_loss(slug: str, photo: np.ndarray) -> None:
    codec = tiny(slug).train()
    x = torch.cat([to_tensor(photo[64 * i : 64 * i + 64, :128]) for i in range(2)])
    optimiser = torch.optim.Adam(codec.parameters(), lr=5e-3)
    losses = []
    for _ in range(12):
        level = torch.rand(2) * (codec.levels - 1)
        loss = codec.objective(x, codec(x, level * 100 / (codec.levels - 1)), level)["loss"]
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    assert all(math.isfinite(v) for v in losses)
    assert min(losses[-3:]) < 0.97 * losses[0]


def test_rate_of_raw_codes_does_not_depend_on_the_picture(photo: np.ndarray) -> None:
    torch.manual_seed(0)
    for codec, bits in (
        (Toderici2016((8, 8, 8), 3, "raw"), [2 * 64 * 80] * 3),
        (Toderici2016((8, 8, 8), 3, "raw", unit="block"), [4 * 32 * 40] * 3),
        (Baig2017((4, 8, 8, 8), 4, 4, counted=False), [2 * 128 * 80, 128 * 80, 128 * 80]),
    ):
        for x in (to_tensor(photo), torch.zeros(1, 3, *photo.shape[:2])):
            assert [float(b) for b in codec.eval()(x, 100.0).pass_bits] == bits


def test_block_codec_never_looks_beyond_its_block(photo: np.ndarray) -> None:
    codec = Toderici2016((8, 8, 8), 3, "raw", unit="block").eval()
    x = to_tensor(photo[:64, :64])
    y = x.clone()
    y[:, :, 16:24, 24:32] = 1 - y[:, :, 16:24, 24:32]
    changed = (codec(x, 100.0).x_hat != codec(y, 100.0).x_hat).any(1)[0]
    changed[16:24, 24:32] = False
    assert not changed.any()


def test_gains_exceed_one() -> None:
    codec = tiny("toderici2017")
    gains = codec.scale(1, torch.rand(1, 3, 64, 96) - 0.5).detach()
    assert gains.shape == (1, 1, 64, 96)
    assert float(gains.min()) > 1
    assert len(gains.unique()) <= 6  # one for each 32x32 pixels


def test_priming_spreads_what_the_first_code_knows() -> None:
    x = torch.rand(1, 3, 256, 256)
    y = x.clone()
    y[:, :, 128, 128] += 1
    reach = []
    for prime in (0, 1, 3):
        torch.manual_seed(0)
        codec = create("johnston2018", preset="test", pretrained=False)
        codec.prime = prime
        with torch.no_grad():
            u, v = (codec.analyse(0, z - 0.5, None)[0] for z in (x, y))
        reach.append(int((u != v).any(1).sum()))
    assert reach[0] < reach[1] < reach[2]


@pytest.mark.parametrize("slug", ["johnston2018", "covell2017"])
def test_bits_go_where_the_picture_needs_them(slug: str) -> None:
    """A mid-grey half is good enough by itself for a codec that paints grey; the busy half is not."""
    codec = tiny(slug)
    codec.even = True
    for p in codec.decoder[-2].parameters():
        p.data.zero_()
    x = torch.full((1, 3, 64, 128), 0.5)
    x[..., 64:] = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    out = codec(x, 50.0)
    flat = codec(torch.full((1, 3, 64, 128), 0.5), 50.0)
    assert [float(b) for b in flat.pass_bits[2:]] == [0.0]
    assert float(out.pass_bits[2]) > 0
    assert float(out.bits["y"]) < 0.85 * codec(torch.rand(1, 3, 64, 128), 50.0).bits["y"]
    stream, seen = codec.compress(x, 50.0)
    assert torch.equal(codec.decompress(stream, (64, 128), 50.0), seen)


@pytest.mark.parametrize("slug", ["johnston2018", "covell2017", "minnen2017"])
def test_bits_are_spent_where_they_help_most(slug: str, photo: np.ndarray) -> None:
    """Half of the picture is flat: the same weights, sending everywhere alike, reach less with more bits."""
    codec = create(slug)
    x = to_tensor(photo[:128, :192])
    x[..., :96] = x[..., :96].mean((2, 3), keepdim=True)

    def spent(quality: float) -> tuple[float, float]:
        out = codec(x, quality)
        return float(out.bpp), float((out.x_hat - x).square().mean())

    found = [spent(quality) for quality in (20.0, 50.0)]
    assert found[0][0] < found[1][0]
    assert found[0][1] > found[1][1]
    codec.even = True
    for name in ("worst", "best") if slug != "minnen2017" else ("lowest", "highest"):
        setattr(codec, name, 1e-6 if slug != "minnen2017" else 1e3)
    everywhere = codec(x, 100.0)
    if slug == "minnen2017":
        twin = []
        for codec.steps in range(1, 9):
            twin.append(spent(100.0))
    else:
        bits = np.cumsum([float(b) for b in everywhere.pass_bits]) / everywhere.pixels
        twin = [(float(b), float((p - x).square().mean())) for b, p in zip(bits, everywhere.pictures, strict=True)]
    for bpp, error in found:
        assert all(more > bpp for more, worse in twin if worse <= error)


def test_adaptive_codecs_spend_more_for_more_quality(photo: np.ndarray) -> None:
    for slug in ("johnston2018", "covell2017", "minnen2017"):
        codec = tiny(slug)
        codec.even = True
        blurred = to_tensor(photo) * 0.2 + 0.4
        spent = [float(codec(blurred, q).bpp) for q in (0.0, 50.0, 100.0)]
        assert spent[0] < spent[2]
        assert spent == sorted(spent)


def test_tiles_depend_only_on_tiles_before_them(photo: np.ndarray) -> None:
    codec = tiny("minnen2017")
    codec.even = True
    x = to_tensor(photo[:96, :128])
    y = x.clone()
    y[:, :, 32:64, 64:96] = 1 - y[:, :, 32:64, 64:96]  # row 1, column 2
    changed = (codec(x, 100.0).x_hat != codec(y, 100.0).x_hat).any(1)[0]
    seen = split(changed[None, None].float())[0].amax((1, 2, 3)).view(3, 4)
    before = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]).bool()
    assert not seen[before].any()
    assert seen[1, 2] == 1


def test_windows_hold_what_is_above_and_to_the_left() -> None:
    x = torch.rand(2, 3, 96, 64)
    tiles = split(x)
    torch.testing.assert_close(join(tiles, 3), x)
    canvas = Canvas(2, 3, 2, x)
    assert not canvas.windows(torch.tensor([0])).any()
    canvas.place(torch.arange(6), tiles)
    window = canvas.windows(torch.tensor([3]))[:, 0]  # row 1, column 1
    torch.testing.assert_close(window[:, :3, :32], x[:, :, :32])
    torch.testing.assert_close(window[:, :3, 32:, :32], x[:, :, 32:64, :32])
    assert not window[:, :, 32:, 32:].any()
    assert window[:, 3].sum() == 2 * 3 * 32**2
    assert 0 < float((degrade(x) - x).abs().mean()) < 0.3


def test_stages_remember_all_codes() -> None:
    """Of eight decoders in a row, the last one's picture depends on the first one's code."""
    decoders = [Decoder((4, 8, 8, 8), 8, linked=k > 0) for k in range(8)]
    codes = [torch.randn(1, 8, 4, 4, requires_grad=True) for _ in decoders]
    links: list[torch.Tensor] = []
    for decoder, code in zip(decoders, codes, strict=True):
        picture, links = decoder(code, links)
    picture.square().sum().backward()
    assert all(code.grad is not None and code.grad.abs().max() > 0 for code in codes)


@pytest.mark.parametrize("links", ["incremental", "skip", "full", "decoding"])
def test_all_ways_to_link_stages_code(links: str, photo: np.ndarray) -> None:
    torch.manual_seed(0)
    codec = Baig2017((4, 8, 8, 8), 3, 0, links).eval()
    x = to_tensor(photo[:50, :70])
    stream, seen = codec.compress(x, 100.0)
    assert torch.equal(codec.decompress(stream, (50, 70), 100.0), seen)


# JPEG files


def jpeg(photo: np.ndarray, quality: int, subsampling: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(photo).save(out, "JPEG", quality=quality, subsampling=subsampling)
    return out.getvalue()


@pytest.mark.parametrize("subsampling", [0, 2])
def test_step_zero_is_what_a_jpeg_decoder_shows(subsampling: int, photo: np.ndarray) -> None:
    data = jpeg(photo[:100, :150], 40, subsampling)
    codec = Ororbia2018(8, 2, "delta").eval()
    for refiner in (codec.luma, codec.chroma):
        refiner.output.weight.data.zero_()
    image = _open(data, 10**6)
    tables, whole = _quantisers(image)
    assert whole == (True, subsampling == 0, subsampling == 0)
    assert tables[0] == quantisers(torch.tensor([40.0]))[0, 0].tolist()
    planes = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float()
    restored = codec.restore(planes, torch.tensor(tables).float(), whole)[0].permute(1, 2, 0).numpy() * 255
    with Image.open(io.BytesIO(data)) as plain:
        error = np.abs(restored - np.asarray(plain.convert("RGB"), dtype=float))
    assert error.mean() < 0.6


def test_dct_round_trip() -> None:
    x = 100 * torch.randn(2, 3, 16, 24)
    torch.testing.assert_close(to_pixels(to_coefficients(x)), x, atol=1e-3, rtol=1e-4)
    assert float(to_coefficients(torch.ones(1, 1, 8, 8))[0, 0]) == pytest.approx(8.0)
