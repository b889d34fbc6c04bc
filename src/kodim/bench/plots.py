"""Rate-distortion curves as PNG and SVG, in the style of a printed page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kodim.bench.curves import PUBLISHED, views
from kodim.bench.published import SHOWN
from kodim.errors import BadRequest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of middling lightness, so that they hold on white and on black; told apart by marker too.
COLOURS = (
    *("#3b6fb6", "#d1642b", "#2f8f6b", "#b0508f", "#8a7a1f", "#5b5bd0"),
    *("#c23b4b", "#2b93a8", "#7a5a3c", "#6b8f2a", "#a04fd0", "#667788"),
)
MARKERS = "os^Dv<>pP*Xh"
_STYLE: dict[Any, Any] = {
    "font.family": "serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.linewidth": 0.3,
    "grid.color": "#bbbbbb",
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "kodim",  # the same plot is the same file
}


def require() -> None:
    """Raise BadRequest, naming the pip extra, when matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise BadRequest('plots need matplotlib: pip install "kodim[plots]"') from error


def curves_of(result: dict[str, Any], *, every: bool = False) -> list[dict[str, Any]]:
    """The curves of a study's result, measured ones first: `{"name", "published", "shown", "points", ...}`.

    A point holds bpp and the figures of all views; `colour` and `marker` are the same in plots and report.
    `every` adds the published curves that are not shown unasked.
    """
    found: list[dict[str, Any]] = []
    for card in result["codecs"]:
        points = [p for p in result["points"] if p["codec"] == card["codec"]]
        names = ["bpp", "quality", *(view["name"] for view in views(result["metrics"]))]
        rows = sorted(({name: point[name] for name in names} for point in points), key=lambda p: p["bpp"])
        found.append({"name": card["codec"], "published": False, "shown": True, "points": rows})
    for line in (result["published"] or {}).get("curves", ()):
        shown = line["name"].removeprefix(PUBLISHED) in SHOWN
        if shown or every:
            rows = sorted(line["points"], key=lambda p: p["bpp"])
            found.append({"name": line["name"], "published": True, "shown": shown, "points": rows})
    for i, curve in enumerate(found):
        curve["colour"], curve["marker"] = COLOURS[i % len(COLOURS)], (i + i // len(COLOURS)) % len(MARKERS)
    return found


def draw(result: dict[str, Any]) -> dict[str, bytes]:
    """File name -> bytes: a PNG and an SVG for every view of every metric."""
    require()
    import matplotlib
    from matplotlib.figure import Figure

    files = {}
    for view in views(result["metrics"]):
        with matplotlib.rc_context(_STYLE):
            figure = Figure(layout="constrained")
            axes = figure.subplots()
            _axes(axes, view, curves_of(result))
            rows = -(-len(axes.lines) // 3)
            figure.set_size_inches(6.4, 4.2 + 0.17 * rows)
            figure.legend(loc="outside lower center", ncols=3)
            for kind, options in (("png", {"dpi": 200}), ("svg", {"metadata": {"Date": None}})):
                stream = io.BytesIO()
                figure.savefig(stream, format=kind, **options)
                files[f"{view['name']}.{kind}"] = stream.getvalue()
    return files


def _axes(axes: Axes, view: dict[str, str], curves: Sequence[dict[str, Any]]) -> None:
    right = max((p["bpp"] for c in curves if not c["published"] for p in c["points"]), default=1.0)
    for curve in curves:
        points = [p for p in curve["points"] if p.get(view["name"]) is not None]
        if curve["published"]:  # as far as there is something of ours to compare with
            points = [p for p in points if p["bpp"] <= 1.1 * right]
        if not points:
            continue
        axes.plot(
            [p["bpp"] for p in points],
            [p[view["name"]] for p in points],
            color=curve["colour"],
            label=curve["name"],
            marker=None if curve["published"] else MARKERS[curve["marker"]],
            linestyle="--" if curve["published"] else "-",
            linewidth=0.8 if curve["published"] else None,
        )
    if view["better"] == "lower":
        axes.invert_yaxis()  # up is better on every plot
    axes.set_xlabel("bits per pixel")
    axes.set_ylabel(view["title"] + ("" if view["better"] == "higher" else ", lower is better"))
    axes.set_xlim(left=0)
