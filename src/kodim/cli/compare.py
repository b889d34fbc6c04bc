"""`kodim compare`: many codecs on the same pictures, as tables, plots and a page to look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kodim.cli.inputs import Inputs, expand, is_picture
from kodim.cli.options import Files, Json
from kodim.cli.output import (
    THEIR_FAULT,
    check_writable,
    complain,
    note,
    print_json,
    print_table,
    progress,
    say,
    write_file,
)
from kodim.errors import BadRequest

if TYPE_CHECKING:
    from kodim.bench.compare import Study

EXAMPLES = """[bold]Examples[/bold]

kodim compare kodak/ --codecs minnen2018,jpeg,webp,avif -o comparison/

kodim compare photos/ --codecs jpeg,heic,jxl --anchor heic --qualities 20,35,50,65 -o out/ --jobs 4

kodim compare kodak/ --codecs mine.safetensors,jpeg --anchor published:vtm -o out/

The folder gets report.html, points.csv, points.json, means.csv, bd_rate.csv, and every plot as PNG and SVG.
The same command again goes on where an interrupted one stopped, and measures only what is new."""


def compare(
    files: Files,
    codecs: Annotated[
        str,
        typer.Option(metavar="A,B,...", help="Codecs that `kodim codecs` lists, or weights files.", show_default=False),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for the results.", show_default=False)
    ],
    anchor: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What BD figures are against: one of the codecs, or published:NAME. Default: jpeg, or the first.",
            show_default=False,
        ),
    ] = None,
    qualities: Annotated[
        str | None,
        typer.Option(metavar="Q,Q,...", help="0..100, for all codecs. Default: a grid over each codec's range."),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(metavar="M,M,...", help="psnr, ms_ssim, ... Default: all whose package is installed."),
    ] = None,
    published: Annotated[
        bool | None,
        typer.Option(
            "--published/--no-published",
            help="Draw published curves beside. Default: for the 24 Kodak pictures.",
            show_default=False,
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(metavar="N", min=1, help="Measurements at once; seconds suffer.")] = 1,
    pictures: Annotated[int, typer.Option(metavar="N", min=0, help="Pictures to show in the report.")] = 3,
    as_json: Json = False,
) -> None:
    """Compare codecs: rate-distortion curves, BD-rates, seconds, and the pictures side by side.

    Every figure comes from a real file, decoded again. Pictures that cannot be read are left out and named.
    """
    from kodim.bench import plots
    from kodim.bench.compare import Study

    plots.require()
    names, grid = _words(codecs), [_number(word) for word in _words(qualities or "")]
    check_writable(output / "report.html")
    inputs = expand(files, is_picture, "picture")
    if not inputs.files:
        raise BadRequest(inputs.failed[0][1] if inputs.failed else "no picture given")
    study = Study(
        inputs.files,
        names,
        folder=output,
        anchor=anchor,
        qualities=grid or None,
        metrics=_words(metrics) if metrics else None,
        with_published=published,
    )
    inputs.note_skipped()
    _measure(study, jobs)
    result = study.result()
    result["left_out"] += _passed_over(inputs)
    gallery = _gallery(study, pictures, jobs)
    written = _write(output, result, gallery)
    for one in result["left_out"]:
        if one["input"] not in inputs.skipped:
            complain(f"{one['input']}: left out: {one['reason']}")
    if as_json:
        print_json({"output": str(output), "files": written, **_brief(result)})
    else:
        _print(result)
        say(f"{output / 'report.html'}")
    if len(result["left_out"]) > len(inputs.skipped):
        raise typer.Exit(THEIR_FAULT)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise BadRequest(f"--qualities takes numbers separated by commas, not {word!r}") from None


def _measure(study: Study, jobs: int) -> None:
    todo = len(study.todo)
    if todo < len(study.tasks):
        note(f"{len(study.tasks) - todo} of {len(study.tasks)} measurements were made before")
    with progress(todo, "measuring") as advance:
        study.measure(jobs, advance)


def _gallery(study: Study, count: int, jobs: int) -> list[dict[str, Any]]:
    from kodim.bench.gallery import RATES, gallery

    shown = min(count, len(study.subjects))
    with progress(shown * len(RATES) * len(study.entrants), "drawing") as advance:
        return gallery(study, shown, jobs, advance)


def _passed_over(inputs: Inputs) -> list[dict[str, str]]:
    """What of the command line took no part before any picture was opened."""
    skipped = [{"input": name, "reason": "not a picture"} for name in inputs.skipped]
    return skipped + [{"input": word, "reason": reason.removeprefix(f"{word}: ")} for word, reason in inputs.failed]


def _write(folder: Path, result: dict[str, Any], gallery: list[dict[str, Any]]) -> list[str]:
    from kodim.bench import plots, report

    texts = {
        "points.json": json.dumps(result, indent=1, allow_nan=False) + "\n",
        "points.csv": report.points_csv(result),
        "means.csv": report.means_csv(result),
        "bd_rate.csv": report.bd_csv(result),
        "report.html": report.page(result, gallery),
    }
    files = plots.draw(result) | {name: text.encode() for name, text in texts.items()}
    for name, data in files.items():
        write_file(folder / name, data)
    return [str(folder / name) for name in files]


def _brief(result: dict[str, Any]) -> dict[str, Any]:
    """The result without the rows of single pictures and without the published points: points.json has all."""
    points = [{k: v for k, v in point.items() if k != "images"} for point in result["points"]]
    kept = ("anchor", "interpolation", "codecs", "bd", "left_out", "notes")
    return {**{name: result[name] for name in kept}, "points": points}


def _print(result: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left", title_style="")
    table.title = f"BD-rate against {result['anchor']} (overlap of the curves)"
    table.add_column("codec")
    headings = [metric["title"] for metric in result["metrics"]]
    for heading in (*headings, "encode s", "decode s", "kMAC/px", "parameters"):
        table.add_column(heading, justify="right")
    for card in result["codecs"]:
        bd = {r["metric"]: r for r in result["bd"] if (r["codec"], r["anchor"]) == (card["codec"], result["anchor"])}
        cells = [_bd_cell(bd.get(metric["name"])) for metric in result["metrics"]]
        table.add_row(card["codec"], *cells, *_cost_cells(card, result["points"]))
    print_table(table)


def _bd_cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    return "n/a" if row["bd_rate"] is None else f"{row['bd_rate']:+.1f}% ({100 * row['overlap']:.0f}%)"


def _cost_cells(card: dict[str, Any], points: list[dict[str, Any]]) -> list[str]:
    mine = [point for point in points if point["codec"] == card["codec"]]
    seconds = [f"{sum(p[name] for p in mine) / len(mine):.3f}" for name in ("encode_s", "decode_s")]
    if card["parameters"] is None:
        return [*seconds, "", ""]
    kmac = f"{card['encode_kmac']:.1f} / {card['decode_kmac']:.1f}"
    return [*seconds, kmac, f"{card['parameters'] / 1e6:.2f} M"]
