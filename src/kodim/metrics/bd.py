"""Bjontegaard deltas: how much less rate one codec needs, or how much more quality it gives, than another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kodim.errors import BadRequest

METHODS = ("pchip", "akima", "cubic")
_MIN_POINTS = 4

Values = Sequence[float | None]


def bd_rate(rate_a: Values, q_a: Values, rate_t: Values, q_t: Values, method: str = "pchip") -> float:
    """BD-rate of a tested codec `t` against an anchor `a`, in percent; negative saves bits.

    The mean difference of log-rate over the qualities that both curves reach (Bjontegaard, VCEG-M33; pchip is
    the interpolation of the JVET). Nothing is extrapolated: curves without common qualities give nan.

    Parameters
    ----------
    rate_a, rate_t:
        rates, such as bits per pixel, in any order; one curve is the mean over a data set.
    q_a, q_t:
        qualities in dB: PSNR, or MS-SSIM through `ms_ssim_db`. Points without a finite quality (None, nan,
        inf) are left out, and so are points beaten by one of less rate (see `frontier`).
    method:
        "pchip", "akima" or "cubic". They differ by a few tenths of a percent: say which.

    Raises
    ------
    BadRequest:
        fewer than four usable points in a curve, an unknown method, bjontegaard not installed.
    """
    (anchor, test), overlapping = _curves(rate_a, q_a, rate_t, q_t, method, axis=1)
    if not overlapping:
        return math.nan
    rates = (*_columns(anchor), *_columns(test))
    return float(_library().bd_rate(*rates, method=method, require_matching_points=False, min_overlap=0))


def bd_psnr(rate_a: Values, q_a: Values, rate_t: Values, q_t: Values, method: str = "pchip") -> float:
    """The mean gain in quality of `t` over `a`, in dB, over the rates that both reach; see `bd_rate`."""
    (anchor, test), overlapping = _curves(rate_a, q_a, rate_t, q_t, method, axis=0)
    if not overlapping:
        return math.nan
    rates = (*_columns(anchor), *_columns(test))
    return float(_library().bd_psnr(*rates, method=method, require_matching_points=False, min_overlap=0))


def frontier(rate: Values, quality: Values) -> list[tuple[float, float]]:
    """The points (rate, quality), sorted, that no other point beats with less rate and as much quality.

    Interpolation needs curves that rise strictly; an encoder's dip or a codec's saturation breaks that.
    Points with a missing or non-finite figure are left out. Raises BadRequest when the lengths differ.
    """
    if len(rate) != len(quality):
        raise BadRequest(f"a curve has as many rates as qualities, not {len(rate)} and {len(quality)}")
    points = list(zip(map(_number, rate), map(_number, quality), strict=True))
    kept: list[tuple[float, float]] = []
    for point in sorted((p for p in points if p[0] > 0 and math.isfinite(sum(p))), key=lambda p: (p[0], -p[1])):
        if not kept or (point[1] > kept[-1][1] and point[0] > kept[-1][0]):
            kept.append(point)
    return kept


def overlap(q_a: Values, q_t: Values) -> float:
    """The share, 0..1, of the joint range of two curves that both cover; BD-rate is shaky below 0.75."""
    a = [q for q in map(_number, q_a) if math.isfinite(q)]
    t = [q for q in map(_number, q_t) if math.isfinite(q)]
    if not a or not t:
        return 0.0
    joint = max(*a, *t) - min(*a, *t)
    common = min(max(a), max(t)) - max(min(a), min(t))
    return max(common, 0.0) / joint if joint > 0 else 0.0


def _curves(
    rate_a: Values, q_a: Values, rate_t: Values, q_t: Values, method: str, axis: int
) -> tuple[tuple[list[tuple[float, float]], list[tuple[float, float]]], bool]:
    """Both frontiers, and whether they share an interval of rate (axis 0) or quality (axis 1)."""
    if method not in METHODS:
        raise BadRequest(f"the interpolation of a BD figure is one of {', '.join(METHODS)}, not {method!r}")
    anchor, test = frontier(rate_a, q_a), frontier(rate_t, q_t)
    for name, curve in (("anchor", anchor), ("tested codec", test)):
        if len(curve) < _MIN_POINTS:
            raise BadRequest(f"a BD figure needs {_MIN_POINTS} points per curve; the {name} has {len(curve)}")
    return (anchor, test), overlap([p[axis] for p in anchor], [p[axis] for p in test]) > 0


def _columns(curve: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [rate for rate, _ in curve], [quality for _, quality in curve]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _library() -> Any:
    try:
        import bjontegaard
    except ImportError as error:
        raise BadRequest('BD-rate needs bjontegaard: pip install "kodim[bench]"') from error
    return bjontegaard
