"""The default codec's network: does it start as a DCT codec, and is its prior exact?"""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from skimage import data

from kodim import registry
from kodim.coding.exact_blocks import ExactDepthwise, ExactLevels, ExactPointwise, exact_exp2
from kodim.coding.sites import Code
from kodim.errors import CorruptFile, DriftError
from kodim.metrics import psnr as psnr_of
from kodim.picture import Picture
from kodim.systems.kodim import TURNS, Kodim, _from_cells, _gather, _pick, _to_cells
from kodim.training import side
from kodim.training.data import Pictures
from kodim.training.muon import Muon
from kodim.transforms.light import merge_matrix, stem_matrix

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def picture():
    return torch.from_numpy(np.array(data.astronaut()[:192, 100:356])).permute(2, 0, 1)[None].float() / 255


def perturbed(preset="test", seed=0):
    """A codec none of whose parts is still at its quiet start."""
    torch.manual_seed(seed)
    codec = Kodim(**Kodim.presets[preset])
    with torch.no_grad():
        for name, p in codec.named_parameters():
            size = 0.05 if name.startswith(("analysis", "synthesis")) else 0.3
            p.add_(torch.randn_like(p) * (size / p[0].numel() ** 0.5 if p.ndim == 4 else 0.02))
    return codec.eval()


def psnr(a, b):
    return float(-10 * torch.log10((a - b).square().mean()))


@pytest.mark.parametrize(("quality", "least"), [(60, 33), (80, 36), (100, 40)])
def test_starts_as_a_dct_codec(picture, quality, least):
    torch.manual_seed(0)
    out = Kodim(**Kodim.presets["compact"]).eval()(picture, quality)
    assert psnr(out.x_hat, picture) > least
    assert float(out.bits["y"].sum()) / out.pixels < 7


def test_matrices_are_orthonormal():
    for matrix in (stem_matrix(), merge_matrix()):
        assert torch.allclose(matrix @ matrix.T, torch.eye(len(matrix)), atol=1e-5)


def test_passes_are_a_partition():
    y = torch.randn(2, 8, 4, 6)
    assert torch.equal(_gather([_pick(y, t) for t in TURNS]), y)
    for turn in TURNS:
        assert torch.equal(_from_cells(_to_cells(y, turn), turn), y)


@pytest.mark.parametrize("quality", [0, 33.3, 71.42, 100])
@pytest.mark.parametrize("size", [(150, 170), (32, 224)])  # 3x3 and 1x4 z, which stick out
def test_estimate_file_and_decoder_agree(picture, quality, size):
    codec = perturbed()
    height, width = size
    x = picture[:, :, :height, :width]
    out = codec(x, quality)
    stream, seen = codec.compress(x, quality)
    bits = float(sum(b.sum() for b in out.bits.values()))
    assert abs(8 * len(stream.data) - bits) < 1e-3 * bits + 64
    assert torch.equal(codec.decompress(stream, size, quality), seen)
    assert torch.allclose(out.x_hat, seen, atol=1e-5)


@pytest.mark.filterwarnings("ignore:TF32")
def test_decodes_alike_everywhere(picture):
    codec = perturbed()
    stream, seen = codec.compress(picture, 57)
    size = picture.shape[2:]
    for threads in (2, 1):
        torch.set_num_threads(threads)
        assert torch.allclose(codec.decompress(stream, size, 57), seen, atol=1e-5)  # symbols are compared by CRC
    with torch.backends.mkldnn.flags(enabled=False):
        assert torch.allclose(codec.decompress(stream, size, 57), seen, atol=1e-5)
    codec.to(memory_format=torch.channels_last)
    assert torch.allclose(codec.decompress(stream, size, 57), seen, atol=1e-5)
    codec.double()
    assert torch.allclose(codec.decompress(stream, size, 57).float(), seen, atol=1e-5)
    with pytest.raises((DriftError, CorruptFile)):
        codec.decompress(stream, size, 60)


def test_prior_path_is_exact_in_a_batch_and_any_precision():
    codec = perturbed()
    level = torch.tensor([0.3, 1.9])
    z = torch.randint(-9, 10, (2, 16, 2, 3)).float()
    v = torch.randn(2, 256, 8, 12)

    class Channel(Code):
        """Hands on rounded values, or those of an earlier run as a decoder would; keeps what the networks said."""

        def __init__(self, level, known):
            super().__init__((8 * 16, 12 * 16), level)
            self.known, self.rows, self.values = known, [], []

        def __call__(self, name, prior, latent):
            self.rows.append(torch.as_tensor(prior.distributions().rows).view(prior.shape))
            self.values.append(self.known[len(self.values)] if self.known else torch.round(latent()))
            return self.values[-1]

    def run(i, known=None):
        channel = Channel(level[i], known and [k[i] for k in known])
        with torch.no_grad():
            step = exact_exp2(codec.log_step(channel.level), training=False)
            v_hat = codec._passes(channel, z[i].to(codec.gain.log_gain.dtype), v[i], step)
        return v_hat, torch.cat(channel.rows, 1), channel.values

    both, rows, values = run(slice(0, 2))
    assert len(rows.unique()) > 20
    for i in range(2):
        alone, alone_rows, _ = run(slice(i, i + 1), values)
        assert torch.equal(alone, both[i : i + 1])
        assert torch.equal(alone_rows, rows[i : i + 1])
    codec.double()
    again, rows_again, _ = run(slice(0, 2), [k.double() for k in values])
    assert torch.equal(again, both)
    assert torch.equal(rows_again, rows)


@pytest.mark.parametrize(
    ("layer", "channels", "error"),
    [
        (ExactPointwise(192, 64), 192, 0.01),
        (ExactPointwise(48, 24, groups=4), 192, 0.01),
        (ExactPointwise(700, 8), 700, 0.05),  # wide layers are left with few bits a weight
        (ExactDepthwise(16), 16, 0.01),
    ],
)
def test_exact_layers_are_integers_and_near_the_float_layer(layer, channels, error):
    torch.manual_seed(0)
    x = torch.randn(2, channels, 6, 8)
    with torch.no_grad():
        expected, got = layer.train()(x), layer.eval()(x)
    assert float((got - expected).square().mean().sqrt()) < error * float(expected.std())
    weight, _ = layer.integers()
    assert torch.equal(weight, weight.round())
    assert float(weight.abs().flatten(1).sum(1).max()) * (2**11 - 1) < 2**24


def test_exact_power_and_levels():
    x = torch.arange(-8192, 8193, 7) / 256
    exact = exact_exp2(x.double(), training=False).double()
    assert torch.allclose(exact, torch.exp2(x.double()), rtol=2**-11)
    mantissa = torch.frexp(exact).mantissa * 2**12
    assert torch.equal(mantissa, mantissa.round())
    levels = ExactLevels(torch.linspace(-9, 5, 4)[:, None].expand(4, 3))
    at = torch.tensor([0.0, 1.37, 3.0])
    assert torch.allclose(levels.eval()(at), levels.train()(at), atol=2**-8)


def test_gradient_reaches_every_parameter(picture):
    codec = perturbed().train()
    x = torch.cat([picture[:, :, :128, i : i + 128] for i in (0, 16, 32)])  # three crops, one a level
    out = codec(x, torch.tensor([0.0, 50.0, 100.0]))
    weight = codec.distortion_weight(torch.arange(3.0))
    (out.bpp + weight * 255**2 * (out.x_hat - x).square().mean((1, 2, 3))).mean().backward()
    grads = {name: p.grad for name, p in codec.named_parameters()}
    assert [name for name, g in grads.items() if g is None or not torch.isfinite(g).all() or not g.any()] == []


def test_context_of_z_learns_from_whole_pictures(picture, tmp_path):
    """Its bits fall, and nothing else of what is coded changes."""
    for i in range(24):
        pixels = (picture[0].permute(1, 2, 0) * 255).byte().numpy()[:, i : i + 224]
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    codec = perturbed()
    before = codec(picture, 50)
    samples = side.collect(codec, Pictures([tmp_path], tmp_path / "cache"), 60, np.random.default_rng(0))
    assert len(samples) == 24
    first, last = side.fit(codec, samples, 2, np.random.default_rng(0))
    assert last < first
    after = codec.eval()(picture, 50)
    assert torch.equal(after.x_hat, before.x_hat)
    assert torch.equal(after.bits["y"], before.bits["y"])
    assert float(after.bits["z"]) < float(before.bits["z"])


def test_quality_orders_size_and_fidelity(picture):
    torch.manual_seed(0)
    codec = Kodim(**Kodim.presets["test"]).eval()
    points = [codec(picture, q) for q in (0, 20, 40, 60, 80, 100)]
    bpp = [float(p.bpp) for p in points]
    fidelity = [psnr(p.x_hat, picture) for p in points]
    assert bpp == sorted(bpp)
    assert fidelity == sorted(fidelity)
    assert not math.isnan(sum(bpp))


def _drawn() -> dict[str, np.ndarray]:
    """Pictures (160, 160, 3) that no photograph resembles."""
    rng, (y, x) = np.random.default_rng(0), np.mgrid[:160, :160]
    drawn = {f"squares of {n}": (x // n + y // n) % 2 for n in (1, 2, 3, 8, 16)}
    drawn |= {f"stripes of {n}": x // n % 2 for n in (1, 3, 16)}
    drawn["print"] = (rng.random((20, 20)) > 0.3).repeat(8, 0).repeat(8, 1)
    drawn["noise"] = rng.random((160, 160)) > 0.5
    return {name: np.repeat(np.uint8(255 * values)[..., None], 3, 2) for name, values in drawn.items()} | {
        "chart": _chart(rng)
    }


def _chart(rng: np.random.Generator) -> np.ndarray:
    """Coloured lines and text on white."""
    image = Image.new("RGB", (160, 160), "white")
    pen = ImageDraw.Draw(image)
    for y in range(10, 150, 20):
        pen.line((10, y, 155, y), (200, 200, 200))
    for k, ink in enumerate(("blue", "orange", "green", "red")):
        heights = 80 + np.cumsum(rng.normal(0, 6, 30))
        pen.line([(10 + 5 * i, float(y)) for i, y in enumerate(heights)], ink, 2)
        pen.text((110, 12 + 12 * k), f"row {k}", fill=ink)
    return np.array(image)


@pytest.mark.parametrize("name", _drawn())
def test_no_picture_drives_the_networks_wild(name):
    """Trained on photographs alone, the analysis once made latents of thousands from black print on white."""
    codec, picture = registry.get("kodim"), Picture(_drawn()[name])
    last = 0.0
    for quality in (0, 30, 60, 100):
        file = codec.encode(picture, quality)
        found = psnr_of(picture.pixels, codec.decode(file).pixels)
        assert 8 * len(file) < 12 * 160 * 160
        assert found > last - 1
        last = found
    assert last > 20


def test_training_leaves_the_start_for_the_better(picture):
    """A few steps of the optimiser in use must not wear the DCT away, least of all at high rates."""
    torch.manual_seed(0)
    codec = Kodim(**Kodim.presets["test"]).train()
    wide = [p for p in codec.parameters() if p.ndim == 4]
    optimiser = Muon(wide, [p for p in codec.parameters() if p.ndim != 4], lr=2e-3)
    x = picture[:, :, :64, 64:128].expand(3, -1, -1, -1)
    quality = torch.tensor([0.0, 50.0, 100.0])
    weight = codec.distortion_weight(torch.arange(3.0))

    def losses():
        out = codec(x, quality)
        return out.bpp + weight * 255**2 * (out.x_hat - x).square().mean((1, 2, 3))

    def expected():  # over the noise of quantisation
        with torch.no_grad():
            return torch.stack([losses() for _ in range(8)]).mean(0)

    before = expected()
    for _ in range(6):
        optimiser.zero_grad()
        (losses() * weight**-0.5).mean().backward()
        torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimiser.step()
    assert (expected() < before).all()
