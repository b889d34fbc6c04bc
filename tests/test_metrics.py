import math

import numpy as np
import pytest
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from kodim.bench import published
from kodim.errors import BadRequest
from kodim.metrics import bd_psnr, bd_rate, frontier, ms_ssim, ms_ssim_db, overlap, psnr, ssim

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


@pytest.mark.parametrize("metric", [psnr, ssim, ms_ssim])
def test_metrics_refuse_floats_and_different_sizes(metric, pair):
    a, b = pair
    with pytest.raises(BadRequest, match="uint8"):
        metric(a, b.astype(np.float32) / 255)
    with pytest.raises(BadRequest, match="one size"):
        metric(a, b[:-1])


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
