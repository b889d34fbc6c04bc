"""`kodim info` and `kodim codecs`: what is in a file, and what there is to choose from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kodim.cli.batch import about
from kodim.cli.compress import Json
from kodim.cli.inputs import MAGIC, read_bytes
from kodim.cli.output import note, print_json, print_table, table_width
from kodim.errors import CorruptFile, KodimError

if TYPE_CHECKING:
    from kodim.registry import Entry

NARROW = 140  # columns below which the table of codecs shows less

INFO_EXAMPLES = """[bold]Examples[/bold]

kodim info photo.kdm

kodim info photo.kdm --json | jq .codec"""

CODECS_EXAMPLES = """[bold]Examples[/bold]

kodim codecs  →  all of them

kodim codecs --network RNN  →  recurrent ones

kodim codecs --json | jq -r '.codecs[].slug'"""


def info(
    file: Annotated[str, typer.Argument(metavar="FILE.kdm", help="A .kdm file.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Show what is inside a .kdm file, without decoding its pixels."""
    from kodim.container import describe, is_kdm

    path = Path(file)
    try:
        data = read_bytes(path)
        if not is_kdm(data[:MAGIC]) and path.suffix.lower() != ".kdm":
            raise CorruptFile(f"{path}: not a .kdm file")
        found = describe(data)
    except KodimError as error:
        raise type(error)(about(path, error)) from error
    found = {"input": file, **found}
    if as_json:
        print_json(found)
    else:
        _print_info(found)


def _print_info(found: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in found.items():
        if key == "chunks":
            text = "\n".join(f"{chunk['type']}  {chunk['bytes']} bytes" for chunk in value)
        elif isinstance(value, float):
            text = f"{value:.4g}"
        else:
            text = str(value)
        table.add_row(key.replace("_", " "), escape(text))
    print_table(table)


def codecs(
    network: Annotated[str | None, typer.Option(metavar="TEXT", help="Kind of network: RNN, CNN, ...")] = None,
    unit: Annotated[str | None, typer.Option(metavar="TEXT", help="What is coded at a time: image, block, ...")] = None,
    spatial: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="How neighbouring values help: hyperprior, context, ..."),
    ] = None,
    rate: Annotated[str | None, typer.Option(metavar="TEXT", help="How the rate is controlled.")] = None,
    range_: Annotated[
        str | None, typer.Option("--range", metavar="TEXT", help="The qualities it is meant for.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the codecs; the options keep those whose entry contains the text, in any case."""
    from kodim import registry

    wanted = dict(zip(registry.TAXONOMY, (network, unit, spatial, rate, range_), strict=True))
    entries = registry.entries(**{name: text for name, text in wanted.items() if text is not None})
    if as_json:
        print_json({"codecs": [_entry_row(entry) for entry in entries]})
    elif entries:
        _print_codecs(entries)
    else:
        note("no codec matches; `kodim codecs` lists them all")


def _entry_row(entry: Entry) -> dict[str, Any]:
    return {
        "slug": entry.slug,
        "kind": entry.kind,
        "title": entry.title,
        "authors": entry.authors,
        "year": entry.year,
        "arxiv": entry.arxiv,
        "aliases": list(entry.aliases),
        "presets": list(entry.presets),
        "weights": list(entry.weights),
        "extension": entry.extension,
        "taxonomy": dict(entry.taxonomy),
    }


def _print_codecs(entries: list[Entry]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from kodim.registry import TAXONOMY

    narrow = table_width() < NARROW  # then what differs least between codecs is left out
    dimensions = [name for name in TAXONOMY if not narrow or name not in ("unit", "range")]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("codec", "kind", "year", "weights"):
        table.add_column(heading, no_wrap=True)
    for heading in (*dimensions, *(() if narrow else ("aliases",))):
        table.add_column(heading)
    for entry in entries:
        weights = (", ".join(entry.weights) or "not yet") if entry.kind == "learned" else "-"
        cells = [entry.slug, entry.kind, str(entry.year or ""), weights]
        cells += [entry.taxonomy.get(dimension, "") for dimension in dimensions]
        cells += [] if narrow else [", ".join(entry.aliases)]
        table.add_row(*map(escape, cells))
    print_table(table)
