"""Curves over a data set, and the Bjontegaard deltas between all of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kodim.bench.published import METRICS as PUBLISHED_METRICS
from kodim.bench.published import SHOWN, Published
from kodim.errors import BadRequest
from kodim.metrics import Metric, bd_psnr, bd_rate, frontier, overlap

PUBLISHED = "published: "
INTERPOLATION = "pchip"
METHOD = (
    "Figures are averaged over the pictures first, per codec and quality, as the field does: bits per pixel of the "
    "whole file, PSNR in dB over RGB, and the other measures as they are; MS-SSIM in dB is -10 log10(1 - mean). "
    "BD-rate is the mean difference of log-rate over the qualities that both curves reach, in percent (Bjontegaard, "
    "VCEG-M33, with PCHIP interpolation as the JVET uses); negative saves bits. BD-quality (BD-PSNR for PSNR) is the "
    "mean difference of quality over the rates that both reach; positive is better. The quality is PSNR in dB, "
    "MS-SSIM in dB, other measures as they are, with the sign turned where lower is better. Points beaten by one of "
    "less rate are left out, and nothing is extrapolated: the overlap is the share of the two curves' joint range of "
    "quality that both cover, and a BD-rate over less than 75 % of it says little."
)


@dataclass(frozen=True)
class Line:
    """A codec's curve: rates in bits per pixel, and for each metric's name the means over the data set."""

    name: str
    bpp: list[float]
    values: dict[str, list[float | None]]


def describe(metric: Metric) -> dict[str, Any]:
    """What tables and plots need to know of a metric."""
    return {
        "name": metric.name,
        "title": metric.title,
        "unit": metric.unit,
        "better": metric.better,
        "decibels": metric.decibels is not None,
    }


def views(metrics: Iterable[dict[str, Any]]) -> list[dict[str, str]]:
    """The vertical axes worth drawing, from `describe`d metrics: each metric, and its form in dB where it has one."""
    found = []
    for metric in metrics:
        unit = f", {metric['unit']}" if metric["unit"] else ""
        found.append({"name": metric["name"], "title": metric["title"] + unit, "better": metric["better"]})
        if metric["decibels"]:
            found.append({"name": f"{metric['name']}_db", "title": f"{metric['title']}, dB", "better": "higher"})
    return found


def measured(points: Sequence[dict[str, Any]], metrics: Sequence[Metric]) -> list[Line]:
    """The curves in a study's points."""
    lines: dict[str, Line] = {}
    for point in points:
        line = lines.setdefault(point["codec"], Line(point["codec"], [], {m.name: [] for m in metrics}))
        line.bpp.append(point["bpp"])
        for metric in metrics:
            line.values[metric.name].append(point[metric.name])
    return list(lines.values())


def published(data: Published, metrics: Sequence[Metric]) -> list[Line]:
    """The published curves that have a figure for one of the metrics, the best known first."""
    wanted = [metric.name for metric in metrics if metric.name in PUBLISHED_METRICS]
    lines = []
    for name in sorted(data.curves, key=lambda name: (name not in SHOWN, SHOWN.index(name) if name in SHOWN else 0)):
        curve = data.curves[name]
        values = {metric: list(getattr(curve, metric)) for metric in wanted if getattr(curve, metric)}
        if values:
            lines.append(Line(PUBLISHED + name, list(curve.bpp), values))
    return lines


def as_points(line: Line, metrics: Sequence[Metric]) -> dict[str, Any]:
    """A curve as ``{"name", "points": [{"bpp", figure of each view}]}``."""
    points: list[dict[str, float | None]] = [{"bpp": bpp} for bpp in line.bpp]
    for metric in metrics:
        for point, value in zip(points, line.values.get(metric.name, ()), strict=False):
            point[metric.name] = value
            if metric.decibels is not None and value is not None:
                point[f"{metric.name}_db"] = metric.decibels(value)
    return {"name": line.name, "points": points}


def bd_table(tested: Sequence[Line], anchors: Sequence[Line], metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    """BD figures of every tested curve against every other one, for every metric that both have.

    Rows of ``{"codec", "anchor", "metric", "bd_rate", "bd_quality", "overlap", "rate_overlap", "note"}``: percent,
    the metric's unit, and shares 0..1 of the joint range of quality and of log-rate. A figure that cannot be
    formed is None and `note` says why.
    """
    return [
        _compare(line, anchor, metric)
        for metric in metrics
        for anchor in anchors
        for line in tested
        if line.name != anchor.name and metric.name in line.values and metric.name in anchor.values
    ]


def _compare(line: Line, anchor: Line, metric: Metric) -> dict[str, Any]:
    q_a, q_t = _axis(anchor, metric), _axis(line, metric)
    curves = (anchor.bpp, q_a, line.bpp, q_t)
    row: dict[str, Any] = {"codec": line.name, "anchor": anchor.name, "metric": metric.name}
    try:
        rate, quality = bd_rate(*curves, INTERPOLATION), bd_psnr(*curves, INTERPOLATION)
    except BadRequest as error:  # fewer than four points
        return row | {"bd_rate": None, "bd_quality": None, "overlap": None, "rate_overlap": None, "note": str(error)}
    rates = [[math.log(rate) for rate, _ in frontier(*curve)] for curve in (curves[:2], curves[2:])]
    return row | {
        "bd_rate": None if math.isnan(rate) else rate,
        "bd_quality": None if math.isnan(quality) else quality,
        "overlap": overlap(*([q for _, q in frontier(*curve)] for curve in (curves[:2], curves[2:]))),
        "rate_overlap": overlap(*rates),
        "note": "the curves reach no quality in common" if math.isnan(rate) else "",
    }


def _axis(line: Line, metric: Metric) -> list[float | None]:
    """The means as a quality that rises: in dB where the metric has such a form, turned where lower is better."""
    found: list[float | None] = []
    for value in line.values[metric.name]:
        if value is None:
            found.append(None)
        else:
            quality = metric.decibels(value) if metric.decibels else value
            found.append(quality if metric.better == "higher" else -quality)
    return found
