"""Measures that follow the eye further than SSIM does, and need no trained weights: NLPD and SSIMULACRA2."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from kodim.errors import BadRequest
from kodim.metrics.fidelity import Pixels, check_pair

NLPD_MIN_SIDE = 33
"""Of a smaller picture the sixth band is a single row or column."""

SSIMULACRA2_MIN_SIDE = 225
"""A smaller picture has fewer than six scales, and the table of weights no longer meets the terms it was fitted to."""

Plane = npt.NDArray[np.float64]

_LUMA = np.array([0.299, 0.587, 0.114])

# Of each band, finest first: sigma, and the weights of the magnitudes (above, left, right, below) of a coefficient.
_NORMALISATION = (
    (0.0248, (0.1015, 0.1460, 0.1493, 0.1011)),
    (0.0185, (0.0837, 0.1846, 0.1986, 0.0757)),
    (0.0179, (0.0467, 0.2243, 0.2138, 0.0477)),
    (0.0191, (0.0, 0.2616, 0.2503, 0.0)),
    (0.0220, (0.0, 0.2552, 0.2598, 0.0)),
    (0.2782, (0.0, 0.0717, 0.2215, 0.0)),
)
_FAR_LEFT = 0.0072  # the finest band also hears the coefficient two to the left


def nlpd(a: Pixels, b: Pixels) -> float:
    """Normalised Laplacian pyramid distance (Laparra, Ballé, Berardino, Simoncelli 2016), uint8 (H, W, 3): 0 is equal.

    Luma (BT.601, full range, 0..1, not linearised) in six Laplacian bands, each coefficient divided by a constant
    plus the magnitudes around it; the root mean square difference of each band, averaged over the bands. Filters
    and constants are those of the authors' program. Raises BadRequest for sides below 33.
    """
    _check("NLPD", NLPD_MIN_SIDE, a, b)
    pairs = zip(_normalised(_luma(a)), _normalised(_luma(b)), strict=True)
    return float(np.mean([np.sqrt(np.mean(np.square(p - q))) for p, q in pairs]))


def ssimulacra2(a: Pixels, b: Pixels) -> float:
    """SSIMULACRA2 (Sneyers 2022), uint8 (H, W, 3) in sRGB: 100 is equal, 70 high quality, below 0 very bad.

    Structural similarity and edge errors in a perceptual colour space at six scales, weighted to fit ratings of
    compressed pictures. `a` is the original: the measure is not symmetric. By the package ssimulacra2, whose
    figures differ a little from those of libjxl's program. Raises BadRequest for sides below 225.
    """
    _check("SSIMULACRA2", SSIMULACRA2_MIN_SIDE, a, b)
    return float(_library().compute_ssimulacra2(_as_file(a), _as_file(b)))


def require_ssimulacra2() -> None:
    """Raise BadRequest, naming the pip extra, when ssimulacra2 is not installed."""
    _library()


def _library() -> Any:
    try:
        import ssimulacra2
    except ImportError as error:
        raise BadRequest('SSIMULACRA2 needs ssimulacra2: pip install "kodim[bench]"') from error
    return ssimulacra2


def _as_file(pixels: Pixels) -> io.BytesIO:
    """The package takes files: a PPM is the quickest lossless one, in memory."""
    file = io.BytesIO()
    Image.fromarray(pixels).convert("RGB").save(file, "PPM")
    file.seek(0)
    return file


def _luma(pixels: Pixels) -> Plane:
    scaled: Plane = pixels / 255
    return scaled if scaled.ndim == 2 else scaled @ _LUMA


def _normalised(plane: Plane) -> list[Plane]:
    """The six bands of a plane, coarsest (the low-pass rest) last, after divisive normalisation."""
    bands = []
    for level, (sigma, weights) in enumerate(_NORMALISATION):
        if level < len(_NORMALISATION) - 1:
            low = _reduce(_reduce(plane).T).T
            high = _expand(_expand(low, plane.shape[0]).T, plane.shape[1]).T
            band, plane = plane - high, low
        else:
            band = plane
        bands.append(band / (sigma + _surround(np.abs(band), weights, _FAR_LEFT if level == 0 else 0.0)))
    return bands


def _reduce(plane: Plane) -> Plane:
    """Low-pass and keep every second row; Burt and Adelson's taps, edges mirrored."""
    p = np.pad(plane, ((2, 2), (0, 0)), mode="symmetric")
    smooth = 0.05 * (p[:-4] + p[4:]) + 0.25 * (p[1:-3] + p[3:-1]) + 0.4 * p[2:-2]
    return smooth[::2]


def _expand(plane: Plane, rows: int) -> Plane:
    """Interpolate to `rows` rows (twice as many or one fewer) with the same taps, edges repeated."""
    p = np.pad(plane, ((1, 1), (0, 0)), mode="edge")
    out = np.empty((2 * plane.shape[0], plane.shape[1]))
    out[::2] = 0.1 * (p[:-2] + p[2:]) + 0.8 * p[1:-1]
    out[1::2] = 0.5 * (p[1:-1] + p[2:])
    return out[:rows]


def _surround(size: Plane, weights: tuple[float, float, float, float], far_left: float) -> Plane:
    """The weighted magnitudes around each coefficient, zero outside the band."""
    above, left, right, below = weights
    total = np.zeros_like(size)
    total[1:] += above * size[:-1]
    total[:-1] += below * size[1:]
    total[:, 1:] += left * size[:, :-1]
    total[:, :-1] += right * size[:, 1:]
    total[:, 2:] += far_left * size[:, :-2]
    return total


def _check(name: str, least: int, a: Pixels, b: Pixels) -> None:
    check_pair(a, b)
    if a.shape[2:] not in ((), (3,)):
        raise BadRequest(f"{name} compares grey or RGB pictures, not {a.shape[2]} channels")
    if min(a.shape[:2]) < least:
        raise BadRequest(f"{name} needs sides of {least} pixels or more, not {a.shape[1]}x{a.shape[0]}")
