import math

import numpy as np
import pytest
from skimage import data

from kodim.classical import CLASSICAL
from kodim.errors import BadRequest
from kodim.metrics import ms_ssim, psnr
from kodim.picture import load
from kodim.rate import compress_to, search


@pytest.fixture(scope="module")
def picture():
    return load(np.ascontiguousarray(data.astronaut()[:176, 120:300]))


class Counted:
    """A codec that counts its calls and can pretend to be lossless from some quality on."""

    def __init__(self, codec, exact_from=101):
        self.codec, self.exact_from = codec, exact_from
        self.slug, self.continuous = codec.slug, codec.continuous
        self.encoded, self.decoded = [], 0

    def encode(self, picture, quality, *, effort=None):
        self.encoded.append(quality)
        self.original = picture
        return self.codec.encode(picture, quality, effort=effort)

    def decode(self, data):
        self.decoded += 1
        return self.original if self.encoded[-1] >= self.exact_from else self.codec.decode(data)


CURVES = {
    "exponential": lambda q: 0.05 * math.exp(0.045 * q),
    "linear": lambda q: 20 + 0.3 * q,
    "concave": lambda q: math.log1p(q),
    "steep at the end": lambda q: 0.1 + (q / 100) ** 9,
    "stairs": lambda q: 0.1 + math.floor(q / 4),
    "starts at nothing": lambda q: max(0.0, q - 37),
    "breaks to infinity": lambda q: 25 + q / 5 if q < 80 else math.inf,
}


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("continuous", [True, False])
def test_search_finds_the_nearest_quality(name, continuous):
    curve = CURVES[name]
    grid = [q / 100 for q in range(10001)] if continuous else range(101)
    table = {q: curve(q) for q in grid}
    for target in (0.11, 1.0, 4.0, 30.0, 39.0):
        calls = []

        def measure(quality, calls=calls):
            calls.append(quality)
            return curve(quality)

        found = search(measure, target, tolerance=0.005 * target, continuous=continuous)
        assert len(calls) == len(set(calls)) <= 20
        assert found.value == curve(found.quality)
        least, most = table[0], table[100]
        if found.status == "met":
            assert abs(found.value - target) <= 0.005 * target
        elif found.status == "lowest":
            assert (found.quality, found.value) == (0, least)
            assert target < least
        elif found.status == "highest":
            assert (found.quality, found.value) == (100, most)
            assert target > most
        else:
            assert found.status == "nearest"
            nearest = min(abs(value - target) for value in table.values())
            assert abs(found.value - target) <= nearest + 0.005 * target


def test_search_is_quick_on_a_smooth_curve():
    calls = []

    def measure(quality):
        calls.append(quality)
        return 0.04 * math.exp(0.04 * quality) + 0.01 * math.sin(quality)

    assert search(measure, 0.5, tolerance=0.0025, continuous=True).status == "met"
    assert len(calls) <= 7


def test_search_keeps_within_its_bounds():
    found = search(lambda q: q, 90.0, tolerance=0.1, low=10, high=60, continuous=True)
    assert (found.quality, found.status) == (60, "highest")
    with pytest.raises(BadRequest):
        search(lambda q: q, 90.0, tolerance=0.1, low=10.2, high=10.8, continuous=False)


@pytest.mark.parametrize("slug", ["jpeg", "webp", "jpeg2000", "avif", "jxl"])
@pytest.mark.parametrize("wish", [{"bpp": 0.9}, {"psnr": 33.0}, {"ms_ssim": 0.98}], ids=str)
def test_compress_to_meets_the_wish_or_says_so(slug, wish, picture):
    codec = Counted(CLASSICAL[slug])
    if not codec.codec.available():
        pytest.skip("not installed")
    result = compress_to(codec, picture, **wish, effort=3)
    assert len(codec.encoded) == len(set(codec.encoded)) <= 14
    assert result.bpp == 8 * len(result.data) / (picture.width * picture.height)
    assert result.data == CLASSICAL[slug].encode(picture, result.quality, effort=3)
    decoded = CLASSICAL[slug].decode(result.data)
    tolerance = {"bpp": 0.02 * 0.9, "psnr": 0.1, "ms_ssim": 0.002}
    ((name, target),) = wish.items()
    value = {
        "bpp": result.bpp,
        "psnr": psnr(picture.pixels, decoded.pixels),
        "ms_ssim": ms_ssim(picture.pixels, decoded.pixels),
    }[name]
    assert getattr(result, name) == pytest.approx(value, abs=1e-6)
    if result.status == "met":
        assert abs(value - target) <= tolerance[name]
    else:  # within the range of all of these, so only the knob's steps can be at fault
        assert result.status == "nearest"
        assert not CLASSICAL[slug].continuous
        assert abs(value - target) <= 4 * tolerance[name]


def test_bpp_needs_no_decoding(picture):
    codec = Counted(CLASSICAL["webp"])
    result = compress_to(codec, picture, bpp=0.7)
    assert codec.decoded == 0
    assert (result.psnr, result.ms_ssim) == (None, None)


@pytest.mark.parametrize(
    ("wish", "quality", "status"),
    [
        ({"bpp": 0.001}, 0, "lowest"),
        ({"bpp": 50.0}, 100, "highest"),
        ({"psnr": 5.0}, 0, "lowest"),
        ({"psnr": 80.0}, 100, "highest"),
        ({"ms_ssim": 0.1}, 0, "lowest"),
    ],
)
def test_out_of_reach_gives_the_end_of_the_scale(wish, quality, status, picture):
    result = compress_to(CLASSICAL["webp"], picture, **wish)
    assert (result.quality, result.status) == (quality, status)


def test_an_exact_copy_does_not_upset_the_search(picture):
    codec = Counted(CLASSICAL["webp"], exact_from=50)
    result = compress_to(codec, picture, psnr=32.0)
    assert result.quality < 50
    assert result.psnr == pytest.approx(32.0, abs=0.4)


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"bpp": 1.0, "psnr": 30.0},
        {"bpp": 0.0},
        {"bpp": -1.0},
        {"bpp": math.nan},
        {"bpp": math.inf},
        {"psnr": 0.0},
        {"psnr": math.inf},
        {"ms_ssim": 0.0},
        {"ms_ssim": 1.0},
        {"ms_ssim": 17.3},
    ],
    ids=str,
)
def test_wishes_that_make_no_sense_are_refused(wish, picture):
    with pytest.raises(BadRequest):
        compress_to(CLASSICAL["jpeg"], picture, **wish)


def test_ms_ssim_of_a_small_picture_is_refused():
    small = load(np.zeros((160, 300, 3), np.uint8))
    with pytest.raises(BadRequest, match="161"):
        compress_to(CLASSICAL["jpeg"], small, ms_ssim=0.9)
