"""`kodim datasets`: the picture sets that kodim knows, and what of them is here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kodim.cli.options import Json
from kodim.cli.output import THEIR_FAULT, complain, print_json, print_table
from kodim.errors import BadRequest

if TYPE_CHECKING:
    from kodim.datasets import Known

EXAMPLES = """[bold]Examples[/bold]

kodim datasets  →  all of them, and where each is found

kodim datasets div2k  →  what is here, or what to download

kodim datasets cityscapes --path /data/cityscapes

Sets are looked for in $KODIM_DATA and in datasets/, one folder each, and in folders of their name here."""


def datasets(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A known set.", show_default=False)] = None,
    path: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder of the set NAME.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """List the picture sets that are known by name, or check that one is complete."""
    from kodim.datasets import CATALOGUE, catalogue

    if name is None:
        if path is not None:
            raise BadRequest("--path is the folder of one set: name the set")
        _list([_row(known, None, count=False) for known in CATALOGUE.values()], as_json)
        return
    known = catalogue.find(name)
    if known is None:
        raise BadRequest(f"no data set is called {name!r}; `kodim datasets` lists them")
    if path is not None and not path.is_dir():
        raise BadRequest(f"{path}: no such folder")
    row = _row(known, path, count=True)
    if as_json:
        print_json({"datasets": [row]})
    else:
        _show(row)
    if not any(split["found"] for split in row["splits"]):
        complain(f"{known.name}: nothing of it in {row['folder']}")
        raise typer.Exit(THEIR_FAULT)


def _row(known: Known, path: Path | None, count: bool) -> dict[str, Any]:
    """What is known of a set and what is here; `found` counts pictures, or is just true or false."""
    from kodim.datasets import home, locate

    splits = []
    for name, split in known.splits.items():
        here = locate(known, name, path)
        found = (len(here.names()) if count else True) if here is not None else 0
        splits.append({"split": name, "found": found, "expected": split.count})
    return {
        "name": known.name,
        "title": known.title,
        "home": known.home,
        "download": known.download,
        "folder": str(path or home() / known.name),
        "licence": known.licence,
        "note": known.note,
        "splits": splits,
    }


def _list(rows: list[dict[str, Any]], as_json: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    if as_json:
        print_json({"datasets": [row | {"splits": [_presence(split) for split in row["splits"]]} for row in rows]})
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("set", no_wrap=True)
    for heading in ("here", "title", "splits", "licence"):
        table.add_column(heading)
    for row in rows:
        here = ", ".join(split["split"] for split in row["splits"] if split["found"]) or "-"
        splits = ", ".join(split["split"] for split in row["splits"])
        table.add_row(*map(escape, (row["name"], here, row["title"], splits, row["licence"])))
    print_table(table)


def _presence(split: dict[str, Any]) -> dict[str, Any]:
    return {"split": split["split"], "here": bool(split["found"]), "expected": split["expected"]}


def _show(row: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("set", escape(row["title"]))
    for split in row["splits"]:
        table.add_row(split["split"], _finding(split))
    if not all(split["found"] for split in row["splits"]):
        table.add_row("download", escape(f"{row['download']}, from {row['home']}"))
        table.add_row("put it in", escape(row["folder"]))
    table.add_row("licence", escape(row["licence"]))
    if row["note"]:
        table.add_row("note", escape(row["note"]))
    print_table(table)


def _finding(split: dict[str, Any]) -> str:
    found, expected = split["found"], split["expected"]
    if not found:
        return "not here" + (f" ({expected} pictures)" if expected else "")
    if expected in (None, found):
        return f"{found} pictures" + (", complete" if expected else "")
    return f"{found} pictures; its owners count {expected}"
