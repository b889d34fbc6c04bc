"""The overfitted codec: exact everywhere, estimates that are sizes, and a fit that pays."""

import hashlib
import itertools
import json
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import kodim
from kodim import container, smallest
from kodim.cli import main
from kodim.codec import Codec, Stream
from kodim.coding.sites import Decode
from kodim.errors import BadRequest, KodimError
from kodim.goal import Goal
from kodim.learned import LearnedCodec, to_tensor
from kodim.overfit import changes, exact, fit, fronts, laplace, network, pieces
from kodim.overfit.pyramid import FEATURES, GRIDS, SLANT, STRIDE, TAPS
from kodim.picture import load
from kodim.progress import listening, stoppable
from kodim.rate import Result
from kodim.registry import find
from kodim.training import fitted as fitted_latents
from kodim.training.data import Pictures

SIZES = network.Sizes(10, 4, 16, 2)


@pytest.fixture(scope="module")
def codec() -> Codec:
    torch.manual_seed(0)
    return kodim.create_codec("overfit", pretrained=bool(find("overfit").weights))


@pytest.fixture(scope="module")
def x(photo) -> torch.Tensor:
    return to_tensor(photo[60:160, 40:168])


@pytest.fixture(scope="module")
def fitted(codec, x) -> tuple[Stream, torch.Tensor]:
    torch.manual_seed(0)
    return codec.compress(x, 60.0, steps=fit.NETWORKS_FROM)


@pytest.fixture
def net() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {name: v + 0.05 * torch.randn_like(v) for name, v in network.start(SIZES).items()}


def grids_of(height: int, width: int, spread: float = 2.0) -> list[torch.Tensor]:
    return [(spread * torch.randn(1, 1, height >> g.level, width >> g.level)) for g in GRIDS]


def loss_of(codec: Codec, x: torch.Tensor, stream: Stream, x_hat: torch.Tensor, quality: float) -> float:
    weight = float(codec.distortion_weight(torch.tensor(quality / 100 * (codec.levels - 1))))
    return 8 * len(stream.data) / x[0, 0].numel() + weight * float((x_hat - x).square().mean()) * 255**2


# tables


def test_tables_are_the_integers_they_always_were() -> None:
    fine = (laplace.tables() * 256).astype("<i8")
    assert (fine >= 1).all()
    assert (fine.sum(1) == 1 << 24).all()
    assert hashlib.sha256(fine.tobytes()).hexdigest()[:16] == "c1d93376c2e29016"


def test_tables_agree_with_the_price_of_fitting() -> None:
    row = torch.arange(laplace.SCALES * laplace.PHASES)[None]
    prior = laplace.Laplace(torch.zeros_like(row), row)
    for symbol in (0, 1, -3):
        smooth = prior.bits(torch.full(prior.shape, float(symbol))).flatten().numpy()
        exactly = prior.distributions().bits(np.full(row.shape[1], symbol))
        likely = smooth < 12
        np.testing.assert_allclose(smooth[likely], exactly[likely], atol=0.02)


# exact networks


def test_neighbours_come_before_in_the_slanted_order() -> None:
    assert all(dx + SLANT * dy < 0 for dy, dx in TAPS)
    for h, w in ((1, 1), (1, 5), (5, 1), (4, 7)):
        seen = [(y, t - SLANT * y) for y0, y1, t in fronts.fronts(h, w) for y in range(y0, y1 + 1)]
        assert sorted(seen) == [(y, x) for y in range(h) for x in range(w)]


def test_integers_follow_the_floats(net) -> None:
    grids = [g.round() for g in grids_of(64, 128)]
    fixed = {name: exact.fixed(v)[None] for name, v in net.items()}
    as_floats = {name: (v[0] / exact.WEIGHT).double() for name, v in fixed.items()}
    doubles = [g.double() for g in grids]
    picture = network.synthesis(as_floats, network.upsample(as_floats, doubles)).clamp(0, 1)
    assert float((exact.picture(fixed, doubles) - picture).abs().max()) < 0.65 / 255
    for i in FEATURES:
        side = network.features(as_floats, doubles, i)
        told = exact.features(fixed, doubles, i)
        torch.testing.assert_close(told / exact.ACTIVATION, side, atol=2e-3, rtol=0)
        inputs = torch.cat((network.neighbours(doubles[i], SIZES.context), side.flatten(2)), 1)
        mean, log_scale = network.entropy(as_floats, inputs).unbind(1)
        nearest, row = fronts.laplaces(fixed, doubles[i], told)
        place = nearest + (row % laplace.PHASES - laplace.PHASES // 2) / laplace.PHASES
        assert float((place - mean.clamp(-127, 127)).abs().max()) < 0.6 / laplace.PHASES
        index = (log_scale - laplace.LOWEST) * laplace.PER_UNIT
        assert float((row // laplace.PHASES - index.clamp(0, laplace.SCALES - 1)).abs().max()) < 0.6


def test_a_picture_in_bands_is_the_picture(net, monkeypatch) -> None:
    grids = [g.round().double() for g in grids_of(128, 64)]
    fixed = {name: exact.fixed(v)[None] for name, v in net.items()}
    whole = exact.picture(fixed, grids)
    monkeypatch.setattr(exact, "BAND", 64 * 17)
    assert torch.equal(exact.picture(fixed, grids), whole)


# gradients in pieces


def test_gradients_in_pieces_are_those_of_the_whole(net, monkeypatch) -> None:
    monkeypatch.setattr(pieces, "POSITIONS", 700)
    monkeypatch.setattr(pieces, "PIXELS", 900)
    leaves = {name: v.requires_grad_(name != "up_w") for name, v in net.items()}
    grids = [g.requires_grad_() for g in grids_of(64, 128)]
    target = torch.rand(1, 3, 50, 120)
    wanted = [v for v in leaves.values() if v.requires_grad] + grids

    total = torch.zeros(())
    for i, grid in enumerate(grids):
        seen = network.neighbours(grid, SIZES.context)
        side = network.features(leaves, grids, i).flatten(2) if i in FEATURES else seen.new_zeros(1, 4, seen.shape[2])
        mean, log_scale = network.entropy(leaves, torch.cat((seen, side), 1)).unbind(1)
        total = total + laplace.price(grid.flatten(2)[0] - mean, log_scale).sum()
    picture = network.synthesis(leaves, network.upsample(leaves, grids))[:, :, :50, :120]
    expected = torch.autograd.grad(total + 100 * (picture - target).square().sum(), wanted)

    task = fit.Task(target, (64, 128), SIZES, {n: exact.fixed(v)[None] for n, v in net.items()}, 1.0)
    task.filters = [tuple(row) for row in net["up_w"].tolist()]
    loss = task.bits(leaves, grids) + 100 * task.mse(leaves, grids) * target.numel()
    for one, other in zip(torch.autograd.grad(loss, wanted), expected, strict=True):
        assert float((one - other).abs().max()) <= 1e-4 * float(other.abs().max())


# the codec


def test_a_fitted_file_decodes_to_the_encoders_picture(codec, x, fitted) -> None:
    stream, x_hat = fitted
    assert torch.equal(codec.decompress(stream, tuple(x.shape[2:]), 60.0), x_hat)


def test_fitting_pays(codec, x, fitted) -> None:
    plain = codec.compress(x, 60.0)
    assert loss_of(codec, x, *fitted, 60.0) < 0.93 * loss_of(codec, x, *plain, 60.0)


def test_larger_lambda_means_more_bits_and_less_error(codec, x) -> None:
    torch.manual_seed(0)
    found = [codec.compress(x, quality, steps=20) for quality in (20.0, 50.0, 80.0)]
    sizes = [len(stream.data) for stream, _ in found]
    errors = [float((x_hat - x).square().mean()) for _, x_hat in found]
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)


def test_changed_networks_travel(codec, x) -> None:
    """Every group changed, in its own steps: the decoder has the networks that the encoder meant."""
    torch.manual_seed(2)
    level = torch.tensor([2.0])
    base, padded = codec.integers(level), codec._pad(x)
    differences = {
        group: (
            3 + i,
            torch.randint(-4, 5, (sum(base[n][0].numel() for n in changes.names(codec.sizes, group)),)).double(),
        )
        for i, group in enumerate(changes.GROUPS)
    }
    from kodim.coding.sites import Encode

    code = Encode(padded, level, changes.nudges(differences))
    with torch.no_grad():
        sent, grids = codec._coded(code)
        got, same = codec._coded(Decode(code.writer.bytes(), padded.shape[2:], level, torch.float32))
    assert all(torch.equal(sent[n], got[n]) for n in sent)
    assert all(torch.equal(a, b) for a, b in zip(grids, same, strict=True))
    for group, (step, multiples) in differences.items():
        moved = torch.cat([(got[n] - base[n]).flatten() for n in changes.names(codec.sizes, group)])
        assert torch.equal(moved, multiples * 2.0**step)


def test_a_fit_goes_on_from_a_file(codec, x, fitted) -> None:
    torch.manual_seed(0)
    goal = Goal(streams=(fitted[0],))
    again = codec.compress(x, 60.0, steps=20, goal=goal)
    assert loss_of(codec, x, *again, 60.0) < 1.005 * loss_of(codec, x, *fitted, 60.0)


@pytest.mark.parametrize("kind", ["bpp", "psnr"])
def test_a_goal_is_met_in_one_fit(codec, x, kind) -> None:
    def reached(stream: Stream, x_hat: torch.Tensor) -> float:
        if kind == "bpp":
            return 8 * (len(stream.data) + 70) / x[0, 0].numel()
        return -10 * float((x_hat - x).square().mean().log10())

    torch.manual_seed(0)
    wanted = reached(*codec.compress(x, 55.0)) + (1.3 if kind == "psnr" else 0.0)
    free = reached(*codec.compress(x, 55.0, steps=80))
    aimed = reached(*codec.compress(x, 55.0, steps=80, goal=Goal(**{kind: wanted})))
    assert abs(aimed - wanted) < abs(free - wanted)
    assert aimed == pytest.approx(wanted, rel=0.1) if kind == "bpp" else abs(aimed - wanted) < 0.5


def test_the_rate_on_the_way_counts_changed_networks(codec, x, monkeypatch) -> None:
    """Or a wanted rate would be missed by what they cost: a sixth of a small file."""
    monkeypatch.setattr(fit, "NETWORKS_WORTH", -1)
    words = list[str]()
    with listening(lambda share: None, words.append):
        stream, _ = codec.compress(x, 40.0, steps=100)
    file = 8 * (len(stream.data) + 70) / x[0, 0].numel()
    assert float(words[-1].split()[0]) == pytest.approx(file, rel=0.04)


def test_a_stop_keeps_the_best_so_far(codec, x) -> None:
    polls, words = iter(range(45)), list[str]()
    with stoppable(lambda: next(polls, None) is None), listening(lambda share: None, words.append):
        stream, x_hat = codec.compress(x, 60.0, steps=100_000)
    assert torch.equal(codec.decompress(stream, tuple(x.shape[2:]), 60.0), x_hat)
    assert loss_of(codec, x, stream, x_hat, 60.0) <= loss_of(codec, x, *codec.compress(x, 60.0), 60.0)
    assert words[-1].endswith("dB")


def test_features_of_coarser_grids_save_bits(codec, x) -> None:
    """Of trained networks only: without what the coarser grids tell, the rate goes up."""
    if not find("overfit").weights:
        pytest.skip("no trained weights in this checkout")
    silent = kodim.create_codec("overfit")
    with torch.no_grad():
        for name in list(silent.common):
            if name.startswith("ifce"):
                silent.common[name].zero_()
                silent.own[name].zero_()
    assert float(silent(x, 60.0).bpp) > 1.01 * float(codec(x, 60.0).bpp)


def test_decoding_time_is_linear(codec, photo) -> None:
    def seconds(side: int) -> float:
        x = to_tensor(photo[:side, :side])
        stream, _ = codec.compress(x, 40.0)
        begun = time.process_time()
        codec.decompress(stream, (side, side), 40.0)
        return time.process_time() - begun

    seconds(64)
    assert seconds(256) < 16 * 2 * seconds(64)


def test_hostile_streams_give_our_errors(codec, x, fitted) -> None:
    rng = np.random.default_rng(3)
    for _ in range(10):
        data = bytearray(fitted[0].data)
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        with pytest.raises(KodimError):
            codec.decompress(Stream(bytes(data), fitted[0].symbols_crc), tuple(x.shape[2:]), 60.0)
    for data in (b"", b"\xff" * 500, rng.bytes(300)):
        with pytest.raises(KodimError):
            codec.decompress(Stream(data, 1), tuple(x.shape[2:]), 60.0)


@pytest.mark.skipif(not find("overfit").weights, reason="no trained weights in this checkout")
def test_file_interface(photo) -> None:
    coder = LearnedCodec(find("overfit"))
    picture = load(photo[:64, :96])
    torch.manual_seed(0)
    first = coder.encode(picture, 55.0, effort=2)
    quality, streams = coder.sent(first, picture)
    assert quality == 55.0
    second = coder.encode(picture, quality, effort=2, goal=Goal(streams=streams))
    assert kodim.decompress(second).size == (96, 64)
    with pytest.raises(BadRequest, match="another picture"):
        coder.sent(first, load(photo[:64, :64]))
    with pytest.raises(BadRequest, match=r"1\.\.10"):
        coder.encode(picture, 50.0, effort=11)
    other = container.Header(**(vars(container.parse(first).header) | {"weights": b"\2" * 8}))
    with pytest.raises(BadRequest, match="0202"):
        coder.sent(container.pack(container.KdmFile(other, container.parse(first).payloads)), picture)


def test_stated_complexity() -> None:
    assert network.Sizes(10, 4, 16, 2).macs_per_pixel() == pytest.approx(1000, rel=0.05)
    assert STRIDE == 64


# the command line


@pytest.fixture
def command(monkeypatch, photo, tmp_path):
    """`kodim compress` of a small picture, with efforts of few steps; gives exit code, output file and JSON row."""
    if not find("overfit").weights:
        pytest.skip("no trained weights in this checkout")
    from kodim.systems.overfit import Overfit

    monkeypatch.setattr(Overfit, "efforts", (0, 3, 3, 3, 3, 3, 3, 3, 3, 3))
    monkeypatch.setattr(smallest, "DEFAULT_EFFORT", 2)
    path, out = tmp_path / "photo.png", tmp_path / "photo.kdm"
    Image.fromarray(photo[:64, :96]).save(path)

    def run(*options: str) -> tuple[int, Path]:
        return main(["compress", str(path), "-o", str(out), *options]), out

    return run


@pytest.mark.parametrize("options", [["--effort", "10"], ["--smallest", "--codec", "overfit", "--bpp", "1"]])
def test_most_effort_means_overfitting(command, options) -> None:
    code, out = command(*options)
    assert code == 0
    assert container.parse(out.read_bytes()).header.codec == "overfit"


@pytest.mark.parametrize("options", [[], ["--bpp", "1"], ["--psnr", "28"]])
def test_smallest_keeps_the_better_of_two_files(command, capsys, options) -> None:
    code, out = command("--smallest", "--json", *options)
    row = json.loads(capsys.readouterr().out)["files"][0]
    assert code == 0
    assert container.parse(out.read_bytes()).header.codec == row["codec"]
    assert row["tried"][row["codec"]]["bytes"] == row["bytes"] == out.stat().st_size
    assert set(row["tried"]) == {"kodim", "overfit"}


def test_smallest_of_a_plain_colour(command, tmp_path) -> None:
    """It is coded without an error: no PSNR for a fit to aim at."""
    Image.new("RGB", (64, 64), (128, 128, 128)).save(tmp_path / "photo.png")
    code, out = command("--smallest")
    assert code == 0
    assert kodim.decompress(out.read_bytes()).size == (64, 64)


def test_smallest_chooses_by_bytes_and_by_psnr() -> None:
    def result(size: int, psnr: float, status: str = "met") -> Result:
        return Result(bytes(size), 50.0, size / 100, psnr, None, status)

    better = smallest._better
    assert better(result(90, 30.0), result(100, 30.0), {"psnr": 30.0})
    assert not better(result(110, 30.0), result(100, 30.0), {"psnr": 30.0})
    assert not better(result(50, 25.0, "nearest"), result(100, 30.0), {"psnr": 30.0})
    assert better(result(101, 31.0), result(100, 30.0), {"bpp": 1.0})
    assert not better(result(150, 31.0, "lowest"), result(100, 30.0), {"bpp": 1.0})


def test_resume_on_the_command_line(command, tmp_path) -> None:
    _, out = command("--effort", "10", "--quality", "43.5")
    earlier = tmp_path / "earlier.kdm"
    earlier.write_bytes(out.read_bytes())
    code, out = command("--resume", str(earlier))
    assert code == 0
    assert container.parse(out.read_bytes()).header.quality == 43.5
    assert command("--resume", str(earlier), "--quality", "50")[0] == 2
    assert command("--resume", str(tmp_path / "photo.png"))[0] == 2
    assert command("--smallest", "--effort", "3")[0] == 2


def test_ctrl_c_once_writes_the_best_so_far(command, monkeypatch) -> None:
    from kodim.systems.overfit import Overfit

    monkeypatch.setattr(Overfit, "efforts", (0, 100_000))
    monkeypatch.setattr(
        fit, "report", lambda share, words="": share and not words and signal.raise_signal(signal.SIGINT)
    )
    code, out = command("--codec", "overfit", "--effort", "2")
    assert code == 0
    assert kodim.decompress(out.read_bytes()).size == (96, 64)


def test_teaching_on_fitted_latents_helps_fits(photo, tmp_path, monkeypatch) -> None:
    """Shared networks that saw where fits of a picture end up serve the next fit of it."""
    Image.fromarray(photo[:96, :96]).save(tmp_path / "photo.png")
    monkeypatch.setattr(fitted_latents, "SIDE", 64)
    monkeypatch.setattr(fitted_latents, "POOL", 4)
    monkeypatch.setattr(fitted_latents, "STEPS", (12, 24))
    monkeypatch.setattr(fitted_latents, "RATE", 6e-3)
    monkeypatch.setattr(fitted_latents, "AVERAGE", 0.02)
    clock = itertools.count()  # ticks with each look at it, so that a busy machine teaches as much
    monkeypatch.setattr(fitted_latents, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    torch.manual_seed(0)
    codec = kodim.create_codec("overfit", pretrained=bool(find("overfit").weights))
    before = {n: p.detach().clone() for n, p in codec.named_parameters()}
    x = to_tensor(photo[:64, :64])

    def cost() -> float:
        torch.manual_seed(0)
        return sum(loss_of(codec, x, *codec.compress(x, q, steps=24), q) for q in (30.0, 70.0))

    first = cost()
    fitted_latents.teach(codec, Pictures([tmp_path], tmp_path / "cache"), 300, np.random.default_rng(0))
    codec.eval()
    assert cost() < 0.995 * first
    moved = {n for n, p in codec.named_parameters() if not torch.equal(p, before[n])}
    assert {n.split(".")[0] for n in moved} == {"common", "own", "analysis"}
    assert not any(n.endswith("up_w") for n in moved)
