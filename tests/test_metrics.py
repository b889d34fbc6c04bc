import io
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from kodim import metrics
from kodim.bench import published
from kodim.errors import BadRequest
from kodim.metrics import (
    METRICS,
    bd_psnr,
    bd_rate,
    frontier,
    ms_ssim,
    ms_ssim_db,
    nlpd,
    overlap,
    psnr,
    ssim,
    ssimulacra2,
)

# JPEG and WebP on Kodak (bpp, dB): fixed figures, so that the library's answer on them stays fixed too.
ANCHOR = ([0.221, 0.508, 0.906, 1.402, 2.1], [23.78, 29.04, 32.06, 34.3, 36.7])
TEST = ([0.234, 0.45, 0.722, 1.3, 1.9, 2.928], [28.33, 31.2, 33.24, 36.1, 38.6, 41.76])


@pytest.fixture(scope="module")
def pair():
    a = data.astronaut()[:241, :331]
    noise = np.random.default_rng(0).normal(0, 7, a.shape)
    return a, np.clip(np.rint(a + noise), 0, 255).astype(np.uint8)


def test_psnr_agrees_with_scikit_image(pair):
    a, b = pair
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=255), abs=1e-9)


def test_psnr_of_equal_pictures_is_infinite(pair):
    assert psnr(pair[0], pair[0]) == math.inf


def test_psnr_peak_is_255_whatever_the_picture_holds():
    dark = np.zeros((8, 8, 3), np.uint8)
    assert psnr(dark, dark + 1) == pytest.approx(20 * math.log10(255))
    assert psnr(dark, dark + 255) == 0


def test_ssim_agrees_with_scikit_image_and_pytorch_msssim(pair):
    torch, library = pytest.importorskip("torch"), pytest.importorskip("pytorch_msssim")
    a, b = pair
    reference = structural_similarity(
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=2
    )
    x, y = (torch.from_numpy(p.transpose(2, 0, 1).astype(np.float32))[None] for p in pair)
    assert ssim(a, b) == pytest.approx(reference, abs=1e-4)
    assert ssim(a, b) == pytest.approx(float(library.ssim(x, y, data_range=255)), abs=1e-5)


def test_ms_ssim_agrees_with_pytorch_msssim_in_double_precision(pair):
    torch, library = pytest.importorskip("torch"), pytest.importorskip("pytorch_msssim")
    x, y = (torch.from_numpy(p.transpose(2, 0, 1).astype(np.float64))[None] for p in pair)
    assert ms_ssim(*pair) == pytest.approx(float(library.ms_ssim(x, y, data_range=255)), abs=1e-5)


def test_metrics_leave_torchs_threads_alone(pair):
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    ms_ssim(*pair)
    assert torch.get_num_threads() == before


def test_ms_ssim_needs_161_pixels(pair):
    a, b = pair
    assert ms_ssim(a[:161, :161], b[:161, :161]) is not None
    assert ms_ssim(a[:160], b[:160]) is None
    assert ms_ssim(a[:, :160], b[:, :160]) is None


def test_ms_ssim_in_decibels():
    assert ms_ssim_db(0.99) == pytest.approx(20)
    assert ms_ssim_db(1.0) == math.inf
    with pytest.raises(BadRequest):
        ms_ssim_db(1.01)


@pytest.mark.parametrize("metric", [psnr, ssim, ms_ssim, nlpd, ssimulacra2, *METRICS.values()])
def test_metrics_refuse_floats_and_different_sizes(metric, pair):
    a, b = pair
    with pytest.raises(BadRequest, match="uint8"):
        metric(a, b.astype(np.float32) / 255)
    with pytest.raises(BadRequest, match="one size"):
        metric(a, b[:-1])


def _nlpd_by_the_book(a, b):
    """NLPD as the authors' program writes it: 5x5 kernels, zeros in between, everything convolved in full."""
    signal = pytest.importorskip("scipy.signal")
    sigmas = [0.0248, 0.0185, 0.0179, 0.0191, 0.0220, 0.2782]
    crosses = [  # up, left, right, down in the kernel, which convolution turns over
        (0.1011, 0.1493, 0.1460, 0.1015),
        (0.0757, 0.1986, 0.1846, 0.0837),
        (0.0477, 0.2138, 0.2243, 0.0467),
        (0, 0.2503, 0.2616, 0),
        (0, 0.2598, 0.2552, 0),
        (0, 0.2215, 0.0717, 0),
    ]
    taps = np.array([0.05, 0.25, 0.4, 0.25, 0.05])
    blur = np.outer(taps, taps)

    def bands(plane):
        for k in range(6):
            kernel = np.zeros((5, 5))
            kernel[1, 2], kernel[2, 1], kernel[2, 3], kernel[3, 2] = crosses[k]
            kernel[2, 4] = 0.0072 if k == 0 else 0
            low, band = plane, plane
            if k < 5:
                low = signal.convolve2d(np.pad(plane, 2, mode="symmetric"), blur, mode="valid")[::2, ::2]
                wide = np.zeros([2 * (n + 2) for n in low.shape])
                wide[::2, ::2] = 4 * np.pad(low, 1, mode="edge")
                wide = signal.convolve2d(wide, blur, mode="same")
                band = plane - wide[2 : 2 + plane.shape[0], 2 : 2 + plane.shape[1]]
            yield band / (sigmas[k] + signal.convolve2d(np.abs(band), kernel, mode="same"))
            plane = low

    x, y = (p @ [0.299, 0.587, 0.114] / 255 for p in (a, b))
    return np.mean([np.sqrt(np.mean((p - q) ** 2)) for p, q in zip(bands(x), bands(y), strict=True)])


@pytest.mark.parametrize("size", [(241, 331), (64, 33), (100, 121)])
def test_nlpd_is_what_its_definition_says(pair, size):
    a, b = (p[: size[0], : size[1]] for p in pair)
    assert nlpd(a, b) == pytest.approx(_nlpd_by_the_book(a, b), abs=1e-9)


def test_nlpd_of_grey_is_that_of_three_equal_channels(pair):
    a, b = (p[..., 1] for p in pair)
    assert nlpd(a, b) == pytest.approx(nlpd(np.dstack([a] * 3), np.dstack([b] * 3)), abs=1e-9)
    with pytest.raises(BadRequest, match="4 channels"):
        nlpd(np.dstack([a] * 4), np.dstack([b] * 4))


def test_ssimulacra2_is_the_packages_figure_for_the_same_files(pair, tmp_path):
    library = pytest.importorskip("ssimulacra2")
    for name, pixels in zip("ab", pair, strict=True):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    reference = library.compute_ssimulacra2(str(tmp_path / "a.png"), str(tmp_path / "b.png"))
    assert ssimulacra2(*pair) == pytest.approx(reference, abs=1e-9)
    assert ssimulacra2(pair[0], pair[0]) == 100


def _jpeg(pixels, quality):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_every_measure_ranks_jpeg_qualities(metric, pair):
    a = pair[0]
    figures = [metric(a, _jpeg(a, quality)) for quality in (10, 40, 90)]
    assert figures == sorted(figures, reverse=metric.better == "lower")
    assert len(set(figures)) == 3
    best = metric(a, a)
    assert best > figures[-1] if metric.better == "higher" else best == 0


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_too_small_pictures_have_no_figure(metric, pair):
    least = metric.min_side
    a, b = (p[:least, :331] for p in pair)
    assert math.isfinite(metric(a, b))
    if least > 1:
        assert math.isnan(metric(a[:-1], b[:-1]))
        assert math.isnan(metric(a[:, : least - 1], b[:, : least - 1]))


def test_the_page_on_measures_has_a_line_for_each():
    page = (Path(__file__).parent.parent / "docs" / "metrics.md").read_text()
    for metric in METRICS.values():
        (line,) = [line for line in page.splitlines() if line.startswith(f"| `{metric.name}` | ")]
        assert line.split(" | ")[1].startswith(metric.better)
        assert line.split(" | ")[2] == str(metric.min_side)


def test_a_set_is_averaged_first_and_converted_then():
    metric = metrics.get("MS-SSIM")
    assert metric.mean([0.9, 0.99, math.nan, None]) == pytest.approx(0.945)
    assert metric.mean_db([0.9, 0.99]) == pytest.approx(-10 * math.log10(0.055))
    assert math.isnan(metric.mean_db([math.nan]))
    assert metrics.get("psnr").mean([30.0, math.inf, 40.0]) == 35
    assert metrics.get("psnr").mean_db([30.0, 40.0]) == 35
    with pytest.raises(BadRequest, match=r"vmaf.*psnr, ssim"):
        metrics.get("vmaf")


@pytest.mark.parametrize("package", ["pytorch_msssim", "ssimulacra2"])
def test_a_missing_package_is_named_with_its_extra(package, monkeypatch, pair):
    monkeypatch.setitem(sys.modules, package, None)
    metric = metrics.get("ms_ssim" if package == "pytorch_msssim" else package)
    for call in (metric.require, lambda: metric(*pair)):
        with pytest.raises(BadRequest, match=r"kodim\[bench\]"):
            call()


def test_naming_the_measures_needs_no_torch():
    code = "import sys, kodim.metrics; kodim.metrics.get('nlpd'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("method", ["pchip", "akima", "cubic"])
def test_bd_figures_agree_with_bjontegaard(method):
    library = pytest.importorskip("bjontegaard")
    options = {"method": method, "require_matching_points": False, "min_overlap": 0}
    args = (*ANCHOR, *TEST)
    assert bd_rate(*args, method) == pytest.approx(library.bd_rate(*args, **options), abs=1e-4)
    assert bd_psnr(*args, method) == pytest.approx(library.bd_psnr(*args, **options), abs=1e-4)


def test_bd_rate_of_a_known_saving():
    rate, quality = ANCHOR
    assert bd_rate(rate, quality, [0.8 * r for r in rate], quality) == pytest.approx(-20, abs=1e-9)
    assert bd_rate([0.8 * r for r in rate], quality, rate, quality) == pytest.approx(25, abs=1e-9)
    assert bd_psnr(rate, quality, rate, [q + 1.5 for q in quality]) == pytest.approx(1.5, abs=1e-9)


def test_bd_rate_takes_points_in_any_order_and_drops_useless_ones():
    rate, quality = TEST
    expected = bd_rate(*ANCHOR, rate, quality)
    messy_rate = [*reversed(rate), 2.0, 3.0, 3.5]  # the first of these is beaten by (1.9, 38.6)
    messy_quality = [*reversed(quality), 38.0, None, math.inf]
    assert bd_rate(*ANCHOR, messy_rate, messy_quality) == pytest.approx(expected, abs=1e-9)


def test_bd_rate_refuses_thin_curves_and_unknown_methods():
    with pytest.raises(BadRequest, match="4 points"):
        bd_rate(*ANCHOR, TEST[0][:3], TEST[1][:3])
    with pytest.raises(BadRequest, match="linear"):
        bd_rate(*ANCHOR, *TEST, "linear")
    with pytest.raises(BadRequest, match="as many"):
        bd_rate(*ANCHOR, TEST[0], TEST[1][:-1])


def test_bd_rate_never_extrapolates():
    far = [q + 40 for q in TEST[1]]
    assert math.isnan(bd_rate(*ANCHOR, TEST[0], far))
    assert overlap(ANCHOR[1], far) == 0
    assert overlap([0, 10], [5, 15]) == pytest.approx(1 / 3)


def test_frontier_rises_strictly():
    assert frontier([1, 2, 2, 3, 4], [30, 29, 33, 33, 35]) == [(1, 30), (2, 33), (4, 35)]


def test_published_curves_have_a_source_and_compare_as_known():
    library = published.load()
    assert "CompressAI" in library.source
    assert len(library.curves) > 30
    webp, jpeg = library.curve("webp"), library.curve("jpeg")
    result = published.against(webp, "jpeg")
    assert result["bd_rate"] == pytest.approx(bd_rate(jpeg.bpp, jpeg.psnr, webp.bpp, webp.psnr), abs=1e-9)
    assert -50 < result["bd_rate"] < -20
    assert 0.5 < result["overlap"] <= 1
    assert published.against(library.curve("vtm"), "hm", metric="ms_ssim")["bd_rate"] < 0


def test_published_curves_compare_with_what_evaluate_returns():
    points = [{"bpp": b, "psnr": q, "ms_ssim": None} for b, q in zip(*TEST, strict=True)]
    evaluation = {"codec": "mine", "points": points, "skipped": []}
    result = published.against(evaluation, "jpeg")
    assert result["codec"] == "mine"
    assert result["bd_rate"] < 0
    with pytest.raises(BadRequest, match="mine has no ms_ssim"):
        published.against(evaluation, "jpeg", metric="ms_ssim")


def test_published_names_near_misses_and_refuses_other_files(tmp_path):
    with pytest.raises(BadRequest, match="bpg_444"):
        published.load().curve("bpg")
    bad = tmp_path / "bad.json"
    bad.write_text('{"curves": []}')
    with pytest.raises(BadRequest, match=r"bad\.json"):
        published.load(bad)
    with pytest.raises(BadRequest, match=r"none\.json"):
        published.load(tmp_path / "none.json")
