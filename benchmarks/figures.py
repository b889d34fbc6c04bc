"""The measured figures of README and docs/figures.md: `python benchmarks/figures.py KODAK PHOTOS`.

Every codec is measured from real files (`kodim.bench.evaluate`) and compared by BD-rate with the classical
codecs of the same run and with the published curves. Results are kept in `benchmarks/results/<codec>.json`
together with the weights' fingerprint, so only what changed is measured again; `--write` puts the tables
into the documents.
"""

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from rich.progress import Progress

from kodim import registry
from kodim.bench import published
from kodim.bench.evaluate import evaluate
from kodim.metrics import bd_rate, overlap

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
LEARNED = ("kodim", "minnen2018", "balle2018", "balle2017")
CLASSICAL = ("jpeg-420", "webp", "jpeg2000", "heic", "avif", "jxl")
ANCHORS = ("jpeg-420", "webp", "jpeg2000")


def measure(slug: str, folder: Path) -> dict[str, Any]:
    """The evaluation of one codec, from disk where codec, weights and pictures are still the same."""
    codec = registry.get(slug)
    names = sorted(p.name for p in folder.iterdir())
    key = json.dumps([slug, codec.arguments(50.0), list(codec.qualities), names], default=str)
    stamp = hashlib.sha256(key.encode()).hexdigest()[:16]
    file = RESULTS / f"{folder.name}-{slug}.json"
    if file.exists() and (kept := json.loads(file.read_text()))["stamp"] == stamp:
        return dict(kept)
    with Progress(transient=True) as bar:
        task = bar.add_task(slug, total=len(codec.qualities) * len(names))
        found = evaluate([folder], codec, progress=lambda _: bar.advance(task))
    for point in found["points"]:  # means are enough to repeat every table
        point.pop("images")
    found |= {"stamp": stamp, "arguments": codec.arguments(50.0), "pictures": len(names)}
    RESULTS.mkdir(exist_ok=True)
    file.write_text(json.dumps(found, indent=1, default=str) + "\n")
    return dict(found)


def curve(found: dict[str, Any], metric: str = "psnr") -> tuple[list[float], list[float]]:
    points = published.measured(found)
    return list(points.bpp), points.decibels(metric)


def rate_against(found: dict[str, Any], anchor: tuple[list[float], list[float]], metric: str = "psnr") -> str:
    """BD-rate in percent, with the share of the quality range it covers where that is not nearly all."""
    mine = curve(found, metric)
    value, shared = bd_rate(*anchor, *mine), overlap(anchor[1], mine[1])
    return f"{value:+.1f}%" + ("" if shared > 0.75 else f" ({100 * shared:.0f}% overlap)")


def points_table(results: dict[str, dict[str, Any]]) -> list[str]:
    """Rate and distortion only: seconds belong to benchmarks/speed.py, on an idle machine."""
    lines = ["| codec | quality | bpp | PSNR (dB) | MS-SSIM |", "|---|---|---|---|---|"]
    for slug, found in results.items():
        for p in found["points"]:
            ms = f"{p['ms_ssim']:.4f}" if p["ms_ssim"] else ""
            lines.append(f"| {slug} | {p['quality']:g} | {p['bpp']:.4f} | {p['psnr']:.2f} | {ms} |")
    return lines


def bd_table(results: dict[str, dict[str, Any]], kodak: bool, metric: str = "psnr") -> list[str]:
    """BD-rate of every learned codec; negative means fewer bits at equal quality."""
    theirs = published.load()
    names = [n for n in published.SHOWN if kodak and n in theirs.curves]
    anchors = [a for a in (*ANCHORS, *(c for c in CLASSICAL if c not in ANCHORS)) if a in results]
    learned = [s for s in results if registry.find(s).kind == "learned"]
    lines = [f"| BD-rate against | {' | '.join(learned)} |", "|---" * (len(learned) + 1) + "|"]
    for anchor in anchors:
        cells = [rate_against(results[s], curve(results[anchor], metric), metric) for s in learned]
        lines.append(f"| {anchor} | {' | '.join(cells)} |")
    for name in names:
        if any(value is not None for value in getattr(theirs.curves[name], metric)):
            anchor_curve = (list(theirs.curves[name].bpp), theirs.curves[name].decibels(metric))
            cells = [rate_against(results[s], anchor_curve, metric) for s in learned]
            lines.append(f"| published: {name} | {' | '.join(cells)} |")
    return lines


def section(folder: Path, results: dict[str, dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Of one folder: the PSNR table with its heading note, and the rest (MS-SSIM, all points)."""
    count, kodak = next(iter(results.values()))["pictures"], folder.name == "kodak"
    note = (
        f"{count} pictures of `{folder.name}`, real files, mean over the pictures. BD-rate in PSNR (RGB), "
        "PCHIP; negative means fewer bits at equal quality."
    )
    rest = [
        "BD-rate in MS-SSIM (dB of the mean):",
        "",
        *bd_table(results, kodak, "ms_ssim"),
        "",
        *points_table(results),
    ]
    return [note, "", *bd_table(results, kodak)], rest


def insert(path: Path, lines: list[str]) -> None:
    """Put lines between the figures markers of a document."""
    text = path.read_text(encoding="utf-8")
    body = "\n".join(["<!-- figures:begin -->", *lines, "<!-- figures:end -->"])
    path.write_text(re.sub(r"<!-- figures:begin -->.*<!-- figures:end -->", lambda _: body, text, flags=re.S), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="folders of pictures; the first one's table is README's")
    parser.add_argument("--codecs", default=",".join((*LEARNED, *CLASSICAL)))
    parser.add_argument("--write", action="store_true", help="write README.md, docs/figures.md")
    options = parser.parse_args()
    front: list[str] = []
    document: list[str] = []
    for folder in options.folders:
        table, rest = section(folder, {slug: measure(slug, folder) for slug in options.codecs.split(",")})
        front = front or table
        document += [f"## {folder.name}", "", *table, "", *rest, ""]
    print("\n".join(document))
    if options.write:
        insert(ROOT / "README.md", front)
        insert(ROOT / "docs" / "figures.md", document)


if __name__ == "__main__":
    sys.exit(main())
