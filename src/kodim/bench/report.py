"""A comparison as one HTML page that needs nothing but itself, and as tables for other programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

from kodim.bench.curves import views
from kodim.bench.gallery import BITS_PEAK, CROP, ERROR_PEAK, WEBP_QUALITY
from kodim.bench.plots import curves_of

_SOURCES = ("codec", "slug", "kind", "versions", "weights", "chroma", "threads")


def page(result: dict[str, Any], gallery: Sequence[dict[str, Any]] = (), title: str = "Comparison of codecs") -> str:
    """The report: curves that zoom, a table that sorts, pictures under a slider; data and pictures are inside.

    `result` is what `Study.result` gives, `gallery` what `gallery` gives.
    """
    # "<" is escaped, for a file name may hold "</script>"
    data = json.dumps(_payload(result, gallery), allow_nan=False).replace("<", "\\u003c")
    text = _template("report.html")
    for name, value in (
        ("title", _escape(title)),
        ("style", _template("report.css").strip()),
        ("script", _template("report.js").strip()),
        ("data", data),  # last, for it may hold any text
    ):
        text = text.replace("{{" + name + "}}", value)
    return text


def points_csv(result: dict[str, Any]) -> str:
    """A row for every codec, quality and picture, with all that is needed to repeat it."""
    cards = {card["codec"]: card for card in result["codecs"]}
    figures = [metric["name"] for metric in result["metrics"]]
    head = [*_SOURCES, "quality", "arguments", "picture", "width", "height", "digest"]
    head += ["bytes", "bpp", *figures, "encode_s", "decode_s", "jobs"]
    pictures = {one["path"]: one for one in result["pictures"]}
    rows = (
        {**image, **pictures[image["input"]], **cards[point["codec"]]}
        | {"quality": point["quality"], "arguments": point["arguments"]}
        for point in result["points"]
        for image in point["images"]
    )
    return _csv(head, rows)


def means_csv(result: dict[str, Any]) -> str:
    """A row for every codec and quality: the means over the pictures, which are the points of the curves."""
    figures = [view["name"] for view in views(result["metrics"])]
    return _csv(["codec", "quality", "bpp", *figures, "encode_s", "decode_s"], result["points"])


def bd_csv(result: dict[str, Any]) -> str:
    """A row for every metric, anchor and codec, with the overlap of the curves."""
    head = ["metric", "anchor", "codec", "bd_rate", "bd_quality", "overlap", "rate_overlap", "interpolation", "note"]
    return _csv(head, ({**row, "interpolation": result["interpolation"]} for row in result["bd"]))


def _payload(result: dict[str, Any], gallery: Sequence[dict[str, Any]]) -> dict[str, Any]:
    cards = []
    for card in result["codecs"]:
        points = [point for point in result["points"] if point["codec"] == card["codec"]]
        seconds = {key: sum(p[key] for p in points) / len(points) for key in ("encode_s", "decode_s")}
        cards.append({**card, **seconds, "arguments": points[0]["arguments"]})
    images = [image for point in result["points"] for image in point["images"]]
    anchors = dict.fromkeys(row["anchor"] for row in result["bd"]) or {result["anchor"]: None}
    return {
        "summary": _summary(result),
        "method": result["method"],
        "notes": [*result["notes"], *([f"published: {result['published']['source']}"] if result["published"] else [])],
        "left_out": result["left_out"],
        "pictures": result["pictures"],
        "metrics": result["metrics"],
        "views": views(result["metrics"]),
        "codecs": cards,
        "jobs": max(image["jobs"] for image in images),
        "anchor": result["anchor"],
        "anchors": list(anchors),
        "curves": curves_of(result, every=True),
        "bd": result["bd"],
        "gallery": list(gallery),
        "gallery_note": (
            f"{len(gallery)} of {len(result['pictures'])} pictures are shown, and of each the middle {CROP[0]} x "
            f"{CROP[1]} pixels at most, stored as WebP of quality {WEBP_QUALITY} to keep this page small. The figures "
            "are those of the whole picture's real file. Every codec was given the quality at which its own points "
            "promise the rate; the true rate stands below. Error maps: mean absolute error of the three channels, 0 to "
            f"{ERROR_PEAK} levels, black to yellow. Bit allocation: bits per pixel at each place by the exact "
            f"estimate, 0 to {BITS_PEAK} times the file's rate; learned codecs only."
        ),
    }


def _summary(result: dict[str, Any]) -> str:
    pictures, codecs = len(result["pictures"]), len(result["codecs"])
    out = f", {len(result['left_out'])} left out (see Method)" if result["left_out"] else ""
    return (
        f"{codecs} codec{'s' * (codecs != 1)} on {pictures} picture{'s' * (pictures != 1)}{out}. Every figure comes "
        f"from a real file, decoded again, and counts the whole file. kodim {result['kodim']}."
    )


def _csv(head: list[str], rows: Iterable[dict[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, head, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: json.dumps(v, default=str) if isinstance(v, dict) else v for k, v in row.items()})
    return stream.getvalue()


def _template(name: str) -> str:
    return (resources.files("kodim.bench") / "templates" / name).read_text(encoding="utf-8")


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
