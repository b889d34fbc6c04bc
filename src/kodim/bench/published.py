"""Curves that others have published, and how a measured one compares with them."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from kodim.errors import BadRequest
from kodim.metrics import bd_rate, frontier, ms_ssim_db, overlap

METRICS = ("psnr", "ms_ssim")
SHOWN = (
    "jpeg",
    "webp",
    "jpeg2000",
    "paper-bmshj2018-factorized",
    "paper-bmshj2018-hyperprior",
    "paper-mbt2018-mean",
    "bpg_444_x265_ycbcr",
    "vtm",
)
"""The curves that tables and plots show unasked, of the many there are."""


@dataclass(frozen=True)
class Curve:
    """One codec's points, averaged over the data set: bits per pixel, PSNR in dB over RGB, MS-SSIM 0..1.

    A quality that was not published is an empty tuple.
    """

    name: str
    bpp: tuple[float, ...]
    psnr: tuple[float, ...] = ()
    ms_ssim: tuple[float, ...] = ()

    def decibels(self, metric: str) -> list[float]:
        """The points' quality in dB, for "psnr" or "ms_ssim"; raises BadRequest when it was not published."""
        if metric not in METRICS:
            raise BadRequest(f"curves are compared by {' or '.join(METRICS)}, not {metric!r}")
        values = self.psnr if metric == "psnr" else tuple(ms_ssim_db(value) for value in self.ms_ssim)
        if len(values) != len(self.bpp):
            raise BadRequest(f"the curve {self.name} has no {metric}")
        return list(values)


@dataclass(frozen=True)
class Published:
    """Curves over one data set, and who published them."""

    source: str
    curves: dict[str, Curve]

    def curve(self, name: str) -> Curve:
        """The curve of that name. Raises BadRequest with the nearest names."""
        if name not in self.curves:
            near = [known for known in sorted(self.curves) if name.lower() in known][:5]
            near = near or get_close_matches(name, self.curves, n=3, cutoff=0.4) or sorted(self.curves)[:5]
            raise BadRequest(f"no published curve {name!r}; near are {', '.join(near)}")
        return self.curves[name]


@cache
def load(path: str | os.PathLike[str] | None = None) -> Published:
    """Read a file of curves; the one on the 24 Kodak images that comes with kodim when `path` is None.

    The file is JSON: ``{"source": text, "curves": {name: {"bpp": [], "psnr_rgb": [], "ms_ssim_rgb": []}}}``,
    either quality optional. Raises BadRequest when it cannot be read as such.
    """
    source = resources.files("kodim.bench") / "data" / "kodak.json" if path is None else Path(path)
    try:
        data = json.loads(source.read_text(encoding="utf-8"))
        curves = {
            name: Curve(
                name=name,
                bpp=tuple(map(float, points["bpp"])),
                psnr=tuple(map(float, points.get("psnr_rgb", ()))),
                ms_ssim=tuple(map(float, points.get("ms_ssim_rgb", ()))),
            )
            for name, points in data["curves"].items()
        }
        return Published(str(data["source"]), curves)
    except OSError as error:
        raise BadRequest(f"{source}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRequest(f"{source}: not a file of published curves") from error


def measured(evaluation: dict[str, Any]) -> Curve:
    """The curve in what `evaluate` returns; points without a figure for one metric drop that metric."""
    points = evaluation["points"]
    columns: dict[str, tuple[float, ...]] = {}
    for metric in METRICS:
        values = [point[metric] for point in points]
        columns[metric] = () if any(value is None for value in values) else tuple(values)
    return Curve(evaluation["codec"], tuple(point["bpp"] for point in points), **columns)


def against(
    tested: Curve | dict[str, Any],
    anchor: str | Curve,
    *,
    metric: str = "psnr",
    method: str = "pchip",
    published: Published | None = None,
) -> dict[str, Any]:
    """BD-rate of a curve, or of what `evaluate` returned, against a published one.

    Returns ``{"codec", "anchor", "metric", "method", "bd_rate", "overlap"}``: percent, negative saves bits,
    None when the curves have no quality in common; and the share of the joint range of qualities that both
    cover. Raises BadRequest for an unknown anchor, an unpublished metric, fewer than four points.
    """
    curve = measured(tested) if isinstance(tested, dict) else tested
    if isinstance(anchor, str):
        anchor = (published or load()).curve(anchor)
    q_a, q_t = anchor.decibels(metric), curve.decibels(metric)
    percent = bd_rate(anchor.bpp, q_a, curve.bpp, q_t, method)
    return {
        "codec": curve.name,
        "anchor": anchor.name,
        "metric": metric,
        "method": method,
        "bd_rate": None if math.isnan(percent) else percent,
        "overlap": overlap(q_a, q_t),
    }


def agreement(
    tested: Curve | dict[str, Any], anchor: str | Curve, *, metric: str = "psnr", published: Published | None = None
) -> dict[str, Any]:
    """How far a measured curve lies from a published one at equal rate, in dB; positive is better than published.

    Both curves are cleared of beaten points (`metrics.frontier`) and the tested one is read off at the published
    points' rates, linearly in log-rate. Returns ``{"codec", "anchor", "metric", "mean", "worst", "at", "points"}``:
    the mean and the largest difference, the rate (bpp) of the latter, and how many published points lie inside the
    tested range; None for all three when none does.
    """
    curve = measured(tested) if isinstance(tested, dict) else tested
    if isinstance(anchor, str):
        anchor = (published or load()).curve(anchor)
    mine, theirs = (frontier(c.bpp, c.decibels(metric)) for c in (curve, anchor))
    log_rate = [math.log(bpp) for bpp, _ in mine]
    inside = [(bpp, quality) for bpp, quality in theirs if mine and mine[0][0] <= bpp <= mine[-1][0]]
    found = {"codec": curve.name, "anchor": anchor.name, "metric": metric, "points": len(inside)}
    if not inside:
        return {**found, "mean": None, "worst": None, "at": None}
    values = np.interp([math.log(bpp) for bpp, _ in inside], log_rate, [quality for _, quality in mine])
    gaps = [float(value) - quality for value, (_, quality) in zip(values, inside, strict=True)]
    worst = max(range(len(gaps)), key=lambda i: abs(gaps[i]))
    return {**found, "mean": math.fsum(gaps) / len(gaps), "worst": gaps[worst], "at": inside[worst][0]}
