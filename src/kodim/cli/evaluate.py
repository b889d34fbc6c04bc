"""`kodim evaluate`: rate and distortion of one codec on one's own pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kodim.cli.inputs import expand, is_picture
from kodim.cli.options import Files, Json
from kodim.cli.output import THEIR_FAULT, complain, print_json, print_table, progress
from kodim.errors import BadRequest

EXAMPLES = """[bold]Examples[/bold]

kodim evaluate kodak/ --codec jpeg  →  over the codec's own grid of qualities

kodim evaluate photo.png --codec webp --quality 30 --quality 60

kodim evaluate kodak/ --codec avif --json > avif.json

PSNR is over RGB, 8 bits, for each picture, then averaged. Bits per pixel count the whole file."""


def evaluate(
    files: Files,
    codec: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Any codec that `kodim codecs` lists; SLUG:PRESET for another of its presets that ships.",
            show_default=False,
        ),
    ],
    quality: Annotated[
        list[float] | None,
        typer.Option(metavar="0..100", help="May be given several times. Default: a grid over the codec's range."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a codec: size of the real file, PSNR, MS-SSIM and seconds, for each picture and on average."""
    from kodim import registry
    from kodim.bench.evaluate import evaluate as measure

    for value in quality or ():
        if not 0 <= value <= 100:
            raise BadRequest(f"--quality goes from 0 to 100, not {value:g}")
    chosen = registry.get(codec)
    grid = list(dict.fromkeys(quality)) if quality else list(chosen.qualities)
    inputs = expand(files, is_picture, "picture")
    inputs.note_skipped()
    for _, reason in inputs.failed:
        complain(reason)
    result: dict[str, Any] = {"codec": chosen.slug, "points": [], "skipped": []}
    if inputs.files:
        with progress(len(inputs.files) * len(grid), f"evaluating {chosen.slug}") as advance:
            result = measure([str(path) for path in inputs.files], chosen, grid, progress=advance)
    for one in result["skipped"]:
        complain(one["reason"])
    result["skipped"] += [{"input": word, "reason": reason} for word, reason in inputs.failed]
    if as_json:
        print_json(result)
    elif result["points"]:
        _print_points(result["points"])
    if result["skipped"]:
        raise typer.Exit(THEIR_FAULT)


def _print_points(points: list[dict[str, Any]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("quality", justify="right")
    table.add_column("picture", overflow="fold")
    for heading in ("bytes", "bpp", "PSNR dB", "MS-SSIM", "encode s", "decode s"):
        table.add_column(heading, justify="right")
    for point in points:
        quality = f"{point['quality']:g}"
        for image in point["images"]:
            table.add_row(quality, escape(Path(image["input"]).name), str(image["bytes"]), *_figures(image))
        table.add_row(quality, "mean", "", *_figures(point), style="bold", end_section=True)
    print_table(table)


def _figures(row: dict[str, Any]) -> list[str]:
    psnr = "exact" if row["psnr"] is None else f"{row['psnr']:.2f}"
    ms_ssim = "n/a" if row["ms_ssim"] is None else f"{row['ms_ssim']:.4f}"
    return [f"{row['bpp']:.3f}", psnr, ms_ssim, f"{row['encode_s']:.3f}", f"{row['decode_s']:.3f}"]
