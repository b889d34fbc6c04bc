"""The zoo under one rule: every trained system beside its cost, from the points that `compare` measures too.

`board` turns points, registry entries and weights cards into a JSON-friendly dict; `markdown` and `table`
write it down. The same points always give the same text.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from kodim.bench import plots
from kodim.bench.curves import describe
from kodim.bench.points import PRESET
from kodim.bench.published import Curve, against, measured
from kodim.metrics import frontier, get, ms_ssim_db
from kodim.registry import Entry, find, training_spent, weights_card, weights_file

ANCHORS = ("jpeg-420", "balle2018")
REFERENCES = ("jpeg-420", "jpeg2000", "webp", "heic", "avif", "jxl")
LANDMARKS = ("webp", "avif")  # drawn with every family
CROWD = 10  # systems in a figure
VIEWS = ("psnr", "ms_ssim_db")
FIGURES = {"psnr": "PSNR", "ms_ssim": "MS-SSIM"}
SLACK = 1.25  # budgets of this ratio count as equal
ENOUGH = 4  # points on a curve for a BD-rate
WORDS = ("codec", "network", "spatial", "rate")  # columns of text; the others are numbers
BELOW = "▼"  # marks a system that is behind the one it says it improves on

# A family is the first of these that the taxonomy's network speaks of: a VAE trained with a critic is a GAN.
FAMILIES = {
    "GAN": r"GAN|adversarial|critic",
    "RNN": r"RNN|LSTM|GRU|recurrent",
    "overfitted": r"INR|overfitted",
    "VAE": r"VAE",
    "CNN": r"CNN|convolution\w*",
    "fully connected": r"MLP|DNN|DBN|fully connected",
}

Evaluation = Mapping[str, Any]
Row = dict[str, Any]


def family(network: str) -> str:
    """The family of a network type in the taxonomy's words: "CNN VAE with attention" -> "VAE"."""
    for name, words in FAMILIES.items():
        if re.search(rf"\b({words})\b", network, flags=re.IGNORECASE):
            return name
    return "other"


def board(
    entries: Sequence[Entry],
    points: Mapping[str, Evaluation],
    *,
    pictures: Mapping[str, Any],
    anchors: Sequence[str] = ANCHORS,
    absent: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """All figures of the leaderboard.

    Args:
        entries: the codecs to list.
        points: slug -> what `kodim.bench.evaluate` found, of the same pictures for all, and `complexity` (see
            `kodim.bench.points`); of a codec without points the board only says why.
        pictures: `name` of the set, `count`, and `megapixels` of one picture on average.
        anchors: slugs that BD-rates refer to, as far as they have points; the first one sorts the table.
        absent: slug -> why a codec has no points.

    Returns:
        ``{"pictures", "anchors", "measured": [dates], "rows", "absent": [{"slug", "title", "reason"}]}``. A row has
        `slug`, `title`, `kind`, `family`, `taxonomy`, `arxiv`, `bpp` (lowest, highest), `training` (gigapixels,
        core_minutes, devices, data), `bd` (anchor -> metric -> bd_rate in percent and overlap 0..1; bd_rate
        None when it cannot be stated), `encode_ms`, `decode_ms` (for a megapixel), `encode_kmac`, `decode_kmac`
        (for a pixel), `parameters`, `weights_bytes`, `place`, and `claim`: how it compares with the system it
        `improves`.
    """
    curves = {slug: measured(dict(found)) for slug, found in points.items() if found["points"]}
    anchors = [anchor for anchor in anchors if anchor in curves]
    listed = [entry for entry in entries if entry.slug in curves]
    rows = [_row(entry, points[entry.slug], curves, pictures["megapixels"], anchors) for entry in listed]
    dates = {points[entry.slug].get("measured") for entry in listed}
    why = absent or {}
    return {
        "pictures": dict(pictures),
        "anchors": anchors,
        "measured": sorted(dates) if None not in dates else [],
        "rows": sorted(rows, key=lambda row: _order(row, anchors)),
        "absent": [
            {"slug": e.slug, "title": e.title, "reason": why.get(e.slug) or _why_absent(e)}
            for e in entries
            if e.slug not in curves
        ],
    }


def versus(tested: Curve, anchor: Curve) -> dict[str, dict[str, Any]]:
    """metric -> `bd_rate` in percent (None when either curve has too few points, or they share none) and `overlap`."""
    found = {}
    for metric in FIGURES:
        whole = all(getattr(c, metric) and len(frontier(c.bpp, c.decibels(metric))) >= ENOUGH for c in (tested, anchor))
        result = against(tested, anchor, metric=metric) if whole else {"bd_rate": None, "overlap": 0.0}
        found[metric] = {key: result[key] for key in ("bd_rate", "overlap")}
    return found


def _row(
    entry: Entry,
    found: Evaluation,
    curves: Mapping[str, Curve],
    megapixels: float,
    anchors: Sequence[str],
) -> Row:
    curve = curves[entry.slug]
    row: Row = {key: getattr(entry, key) for key in ("slug", "title", "kind", "arxiv", "taxonomy", "place")}
    row |= {"family": family(entry.taxonomy.get("network", "")), "bpp": [min(curve.bpp), max(curve.bpp)]}
    row["bd"] = {name: versus(curve, curves[name]) for name in anchors}
    for key in ("encode", "decode"):
        seconds = [point[f"{key}_s"] for point in found["points"]]
        row[f"{key}_ms"] = 1000 * math.fsum(seconds) / len(seconds) / megapixels
    row |= {"training": None, "parameters": None, "weights_bytes": None, "claim": _claim(entry, curves)}
    row |= dict.fromkeys(("encode_kmac", "decode_kmac"))
    if entry.kind == "learned":
        card = weights_card(entry.slug, PRESET)
        spent = training_spent(card)
        row["training"] = {
            "gigapixels": spent["megapixels"] / 1000,
            "core_minutes": spent["core_minutes"],
            "devices": sorted({leg.get("device", "cpu") for leg in card.get("legs", ())}),
            "data": card.get("data", "not stated"),
        }
        row["parameters"] = card.get("parameters")
        row["weights_bytes"] = weights_file(entry.slug, PRESET).stat().st_size
        row |= found.get("complexity", {})
    return row


def _claim(entry: Entry, curves: Mapping[str, Curve]) -> dict[str, Any] | None:
    """BD-rate against the system that this one says it improves on; `below` when it needs more bits than that."""
    if entry.improves is None:
        return None
    slug = find(entry.improves).slug
    if slug not in curves:
        return {"slug": slug, "below": False, **versus(Curve("", ()), Curve("", ()))}
    found = versus(curves[entry.slug], curves[slug])
    rate = found["psnr"]["bd_rate"]
    return {"slug": slug, "below": rate is not None and rate > 0, **found}


def _order(row: Row, anchors: Sequence[str]) -> tuple[bool, float, str]:
    rate = row["bd"][anchors[0]]["psnr"]["bd_rate"] if anchors else None
    return rate is None, rate or 0.0, row["slug"]


def _why_absent(entry: Entry) -> str:
    return "not measured" if entry.kind == "classical" or PRESET in entry.weights else "not trained"


# Figures of the families.


def draw_families(found: Mapping[str, Any], points: Mapping[str, Evaluation]) -> dict[str, dict[str, bytes]]:
    """Heading -> file name -> bytes: PSNR and MS-SSIM (dB) curves of each family as PNG and SVG.

    A family of more than `CROWD` systems, best first, gets several figures. Anchors and a few conventional codecs
    are drawn in all. Raises BadRequest when matplotlib is not installed.
    """
    families: dict[str, list[str]] = {}
    for row in found["rows"]:
        if row["kind"] == "learned":
            families.setdefault(row["family"], []).append(row["slug"])
    drawn = {}
    for name, slugs in sorted(families.items()):
        parts = [slugs[i : i + CROWD] for i in range(0, len(slugs), CROWD)]
        for i, part in enumerate(parts, 1):
            heading = name if len(parts) == 1 else f"{name} ({i} of {len(parts)})"
            stem = re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")
            shown = dict.fromkeys([*part, *found["anchors"], *(slug for slug in LANDMARKS if slug in points)])
            files = plots.draw(_study({slug: points[slug] for slug in shown}))
            drawn[heading] = {f"{stem}-{view}": data for view, data in files.items() if view.split(".")[0] in VIEWS}
    return drawn


def _study(points: Mapping[str, Evaluation]) -> dict[str, Any]:
    """Points in the form that `plots.draw` takes."""
    return {
        "codecs": [{"codec": slug} for slug in points],
        "metrics": [describe(get(metric)) for metric in FIGURES],
        "points": [
            {**point, "codec": slug, "ms_ssim_db": None if point["ms_ssim"] is None else ms_ssim_db(point["ms_ssim"])}
            for slug, one in points.items()
            for point in one["points"]
        ],
        "published": None,
    }


# The table: heading, and what a row says there. CSV has bare numbers, Markdown short ones.


def _number(value: float | None, form: str, factor: float = 1.0) -> str:
    return "" if value is None else format(value * factor, form)


def percent(figure: Mapping[str, Any]) -> str:
    """'-27.2% (54%)': BD-rate, and in brackets the share of the qualities that both curves reach."""
    if figure["bd_rate"] is None:
        return "n/a"
    return f"{figure['bd_rate']:+.1f}% ({100 * figure['overlap']:.0f}%)"


def _cells(row: Row, anchors: Sequence[str], times: bool) -> dict[str, str]:
    name = f"[{row['slug']}](https://arxiv.org/abs/{row['arxiv']})" if row["arxiv"] else row["slug"]
    learned, spent = row["kind"] == "learned", row["training"] or {}
    cells = {"codec": f"{BELOW} {name}" if row["claim"] and row["claim"]["below"] else name}
    cells |= {key: row["taxonomy"].get(key, "") if learned else "" for key in ("network", "spatial", "rate")}
    cells["bpp"] = "-".join(dict.fromkeys(f"{rate:.2f}" for rate in row["bpp"]))
    for anchor in anchors:
        for metric, title in FIGURES.items():
            figure = row["bd"][anchor][metric]
            cells[f"{title} / {anchor}"] = "0" if anchor == row["slug"] else percent(figure)
    cells["Gpx"] = _number(spent.get("gigapixels"), ".2f")
    cells["core-min"] = _number(spent.get("core_minutes"), ".0f")
    if times:
        cells |= {f"{key} ms/Mpx": _number(row[f"{key}_ms"], ".0f") for key in ("encode", "decode")}
    cells |= {f"{key} kMAC/px": _number(row[f"{key}_kmac"], ".1f") for key in ("encode", "decode")}
    cells["parameters (M)"] = _number(row["parameters"], ".2f", 1e-6)
    cells["weights (kB)"] = _number(row["weights_bytes"], ".0f", 1e-3)
    return cells


HEAD = """# Leaderboard

{measure}
Bits per pixel count the complete file. Figures are means over the pictures, of the dB for PSNR. The table is sorted
by the first BD-rate. To repeat it:

```console
$ {command}
```

- The rule of the zoo is an equal budget: the `{preset}` preset of each system, the same photographs, the same compute.
  **Gpx** (pixels of training crops) and **core-min** (CPU time) are what its weights really took, all legs of training
  together, those shared with others included. Where the rule is kept, the table compares designs, not papers.
  {budget}
- **PSNR / {anchor}** is the BD-rate against {anchor}: the mean difference in size at equal PSNR (RGB) over the
  qualities that both reach, PCHIP; negative saves bits. **MS-SSIM** is the same at equal MS-SSIM in dB. In brackets:
  the share of their joint range of qualities that both reach; below 75% a figure says little about the rest. n/a: no
  common quality, or fewer than {enough} points on a curve.
- **bpp** are the lowest and the highest rate measured.{times}
- **kMAC/px** are thousands of multiply-accumulates in the networks for a pixel of the picture.
- Rows without a network are conventional codecs, for reference.{marks}"""

MARKS = f"""
- {BELOW} marks a system that is behind the one it says it improves on; [places](#places) has the reason."""

TIMES = """
- **ms/Mpx** are milliseconds for a megapixel on the machine that measured, model loaded, one picture at a time, mean
  over all qualities."""


def markdown(
    found: Mapping[str, Any],
    *,
    command: str,
    figures: Mapping[str, Sequence[str]] | None = None,
    times: bool = True,
) -> str:
    """The leaderboard as a document.

    Args:
        found: what `board` returned.
        command: the command line that repeats it.
        figures: heading -> picture files with a family's curves, as the document should link to them.
        times: whether to show how long encoding and decoding take.
    """
    places = [line for row in found["rows"] if (line := _place(row))]
    head = HEAD.format(
        measure=_how_measured(found),
        command=command,
        preset=PRESET,
        anchor=next(iter(found["anchors"]), "the anchor"),
        enough=ENOUGH,
        budget=_budget(found["rows"]),
        times=TIMES if times else "",
        marks=MARKS if places else "",
    )
    parts = [head, "\n".join(_table([_cells(row, found["anchors"], times) for row in found["rows"]]))]
    drawn = [
        f"### {name}\n\n" + "\n".join(f"![{name}: quality over rate]({file})" for file in files)
        for name, files in (figures or {}).items()
    ]
    parts += ["## Curves by family", *drawn] if drawn else []
    parts += ["## Places", "\n".join(places)] if places else []
    if found["absent"]:
        parts += ["## Not in the table"]
        parts += ["\n".join(f"- `{one['slug']}`, {one['title']}: {one['reason']}" for one in found["absent"])]
    return "\n\n".join(parts) + "\n"


def table(found: Mapping[str, Any], *, times: bool = True) -> str:
    """The leaderboard as comma-separated values: a line for each codec, bare numbers, empty where there is none."""
    out = io.StringIO()
    lines = [_flat(row, times) for row in found["rows"]]
    writer = csv.DictWriter(out, list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _flat(row: Row, times: bool) -> dict[str, Any]:
    spent, (low, high) = row["training"] or {}, row["bpp"]
    line = {key: row[key] for key in ("slug", "kind", "family")} | row["taxonomy"]
    line |= {"bpp_low": low, "bpp_high": high}
    for anchor, metrics in row["bd"].items():
        for metric, result in metrics.items():
            line |= {f"{key}_{metric}_{anchor}": value for key, value in result.items()}
    line |= {key: spent.get(key) for key in ("gigapixels", "core_minutes")}
    keys = ("encode_ms", "decode_ms") if times else ()
    line |= {key: row[key] for key in (*keys, "encode_kmac", "decode_kmac", "parameters", "weights_bytes")}
    claim = row["claim"] or {}
    return line | {"improves": claim.get("slug"), "below": claim.get("below")}


def _how_measured(found: Mapping[str, Any]) -> str:
    pictures, dates = found["pictures"], found["measured"]
    when = f", measured {dates[0]}{f' to {dates[-1]}' if len(dates) > 1 else ''}" if dates else ""
    count = f"{pictures['count']} picture{'s' if pictures['count'] != 1 else ''} of `{pictures['name']}`"
    return f"{count}{when}: every picture is encoded to a complete file and decoded from it."


def _budget(rows: Sequence[Row]) -> str:
    """Whether the rule is kept: what the cards say about time, data and devices."""
    spent = [row["training"] for row in rows if row["training"]]
    if not spent:
        return "No trained system is in this table."
    minutes = [one["core_minutes"] for one in spent]
    low, high, samples = min(minutes), max(minutes), [one["gigapixels"] for one in spent]
    sets = {one["data"] for one in spent}
    devices = sorted({device for one in spent for device in one["devices"]})
    kept = "It is kept" if high <= SLACK * low and len(sets) == len(devices) == 1 else "**It is not kept yet**"
    data = "the same data" if len(sets) == 1 else f"{len(sets)} different sets of data"
    spans = f"{low:.0f} to {high:.0f} core-minutes, {min(samples):.2f} to {max(samples):.2f} Gpx"
    return f"{kept}: {spans}, {data}, on {' and '.join(devices)}."


def _table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Markdown lines; columns that nobody fills are left out."""
    names = [name for name in (rows[0] if rows else ()) if any(row[name] for row in rows)]
    lines = [names, ["---" if name in WORDS else "---:" for name in names]]
    lines += [[row[name].replace("|", r"\|") for name in names] for row in rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _place(row: Row) -> str:
    """Where a system stands against the one it says it improves on, and why; "" where there is nothing to say."""
    claim, place = row["claim"], row["place"]
    if claim is None:
        return f"- `{row['slug']}`: {place}" if place else ""
    if claim["psnr"]["bd_rate"] is None:
        return f"- `{row['slug']}` says it improves on `{claim['slug']}`; the points here cannot tell. {place}".rstrip()
    figures = f"PSNR {percent(claim['psnr'])}, MS-SSIM {percent(claim['ms_ssim'])}"
    if claim["below"]:
        why = place or "Why has not been explained yet."
        return f"- {BELOW} `{row['slug']}` is behind `{claim['slug']}`, which it says it improves on ({figures}). {why}"
    return f"- `{row['slug']}` improves on `{claim['slug']}`, as it says ({figures}). {place}".rstrip()
