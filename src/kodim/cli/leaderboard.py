"""`kodim leaderboard`: all trained systems in one table with what they cost, written as a document."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kodim.cli.inputs import expand, is_picture
from kodim.cli.options import Files, Json
from kodim.cli.output import check_writable, note, print_json, progress, say, write_file
from kodim.errors import BadRequest

if TYPE_CHECKING:
    from kodim.registry import Entry

EXAMPLES = """[bold]Examples[/bold]

kodim leaderboard kodak/ -o docs/leaderboard.md --points benchmarks/results

kodim leaderboard photos/ --codecs balle2017,balle2018,webp --anchors webp

kodim leaderboard kodak/ -o board.md --kept  →  again, from what was measured before

Beside board.md go board.csv and the curves of each family, board-vae-psnr.png, .svg and so on. A run that was
stopped goes on where it was."""


def leaderboard(
    files: Files,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.md", help="The document.")] = Path(
        "leaderboard.md"
    ),
    codecs: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Default: every learned one, and the usual conventional ones.")
    ] = None,
    anchors: Annotated[
        str | None, typer.Option(metavar="A,B", help="BD-rates refer to these. Default: jpeg-420,balle2018")
    ] = None,
    points: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where measured points are kept. Default: OUT-points, beside OUT.md"),
    ] = None,
    kept: Annotated[bool, typer.Option("--kept", help="Measure nothing: only codecs whose points are kept.")] = False,
    times: Annotated[bool, typer.Option(help="Show seconds; they say little if the machine was busy.")] = True,
    as_json: Json = False,
) -> None:
    """Measure every trained system on the same pictures and write a table of figures and costs, with curves."""
    from kodim.bench.leaderboard import board, draw_families, markdown, table
    from kodim.bench.plots import require
    from kodim.bench.points import Points, collect

    if output.suffix != ".md":
        raise BadRequest(f"{output}: the document is Markdown, its name ends in .md")
    folder = points or output.with_name(f"{output.stem}-points")
    check_writable(output)
    require()
    entries, referred = _entries(codecs, anchors)
    pictures, about = _pictures(files)
    store = Points(folder, about["name"], pictures, write_file)
    found, absent = collect(entries, store, measure=not kept, progress=lambda slug: _bar(slug, pictures))
    for slug, reason in absent.items():
        note(f"{slug} is left out: {reason}")
    if not found:
        raise BadRequest("no codec has points to show" + ("; without --kept they are measured" if kept else ""))
    result = board(entries, found, pictures=about, anchors=referred, absent=absent)
    shown: dict[str, list[str]] = {}
    for heading, drawn in draw_families(result, found).items():
        for name, data in drawn.items():
            write_file(output.with_name(f"{output.stem}-{name}"), data)
        shown[heading] = [f"{output.stem}-{name}" for name in drawn if name.endswith(".png")]
    write_file(output.with_suffix(".csv"), table(result, times=times).encode())
    command = _command(about["name"], output, codecs, anchors, points, times)
    write_file(output, markdown(result, command=command, figures=shown, times=times).encode())
    if as_json:
        print_json(result)
    else:
        say(f"{output}: {len(result['rows'])} codecs on {about['count']} pictures")


def _entries(codecs: str | None, anchors: str | None) -> tuple[list[Entry], list[str]]:
    """The codecs to list, anchors included, and the anchors' slugs."""
    from kodim import registry
    from kodim.bench.leaderboard import ANCHORS, REFERENCES

    referred = [registry.find(name).slug for name in (anchors.split(",") if anchors else ANCHORS)]
    if codecs:
        chosen = [registry.find(name) for name in codecs.split(",")]
    else:
        chosen = registry.entries(kind="learned") + [registry.find(slug) for slug in REFERENCES]
    chosen += [registry.find(slug) for slug in referred]
    return list({entry.slug: entry for entry in chosen}.values()), referred


def _pictures(words: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The files, and what the document says of them: `name`, `count`, and `megapixels` of one on average."""
    from kodim.picture import load

    inputs = expand(words, is_picture, "picture")
    if inputs.failed:
        raise BadRequest(inputs.failed[0][1])
    inputs.note_skipped()
    pixels = [picture.width * picture.height for picture in map(load, inputs.files)]
    folder = inputs.files[0].parent
    about = {"name": folder.resolve().name, "count": len(pixels), "megapixels": sum(pixels) / len(pixels) / 1e6}
    return [str(path) for path in inputs.files], about


def _bar(slug: str, pictures: Sequence[str]) -> AbstractContextManager[Callable[[str], None]]:
    from kodim import registry

    return progress(len(registry.get(slug).qualities) * len(pictures), f"measuring {slug}")


def _command(name: str, output: Path, codecs: str | None, anchors: str | None, points: Path | None, times: bool) -> str:
    """The command line that repeats the document, without what is particular to this machine."""
    words = ["kodim", "leaderboard", f"{name}/", "-o", _here(output)]
    for option, value in (("--codecs", codecs), ("--anchors", anchors), ("--points", points and _here(points))):
        words += [option, value] if value else []
    return shlex.join(words if times else [*words, "--no-times"])


def _here(path: Path) -> str:
    """The path as seen from the working folder; of one elsewhere, its name."""
    inside = path.resolve().is_relative_to(Path.cwd())
    return path.resolve().relative_to(Path.cwd()).as_posix() if inside else path.name
