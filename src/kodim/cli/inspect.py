"""`kodim info` and `kodim codecs`: what is in a file, and what there is to choose from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kodim.cli.batch import about
from kodim.cli.inputs import MAGIC, read_bytes
from kodim.cli.options import Json
from kodim.cli.output import kilobytes, print_json, print_table, table_width, write_file
from kodim.errors import BadRequest, CorruptFile, KodimError

if TYPE_CHECKING:
    from kodim.registry import Entry

MAP_PEAK = 4  # times the mean: drawn in full colour
NARROW = 140  # columns below which the table of codecs shows less
ARXIV = "https://arxiv.org/abs/"

INFO_EXAMPLES = """[bold]Examples[/bold]

kodim info photo.kdm

kodim info photo.kdm --json | jq .codec

kodim info photo.kdm --map bits.png  →  a picture of where the bits go"""

CODECS_EXAMPLES = """[bold]Examples[/bold]

kodim codecs  →  all of them

kodim codecs --network RNN  →  recurrent ones

kodim codecs --spatial hierarchical --trained  →  with a hyper-prior, and weights to use

kodim codecs --explain balle2018  →  its idea, paper, sizes and weights

kodim codecs --json | jq -r '.codecs[].slug'"""


def info(
    file: Annotated[str, typer.Argument(metavar="FILE.kdm", help="A .kdm file.", show_default=False)],
    map_: Annotated[
        str | None,
        typer.Option("--map", metavar="OUT.png", help="Draw where the bits go, from black to yellow."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what is inside a .kdm file, without decoding its pixels."""
    from kodim.container import describe, is_kdm

    path = Path(file)
    if map_ is not None and Path(map_).suffix.lower() != ".png":
        raise BadRequest(f"--map {map_}: the map is a .png file")
    try:
        data = read_bytes(path)
        if not is_kdm(data[:MAGIC]) and path.suffix.lower() != ".kdm":
            raise CorruptFile(f"{path}: not a .kdm file")
        found = describe(data)
        drawn = None if map_ is None else _draw_map(data)
    except KodimError as error:
        raise type(error)(about(path, error)) from error
    found = {"input": file, **found}
    if map_ is not None and drawn is not None:
        write_file(Path(map_), drawn)
        found["map"] = map_
    if as_json:
        print_json(found)
    else:
        _print_info(found)


def _draw_map(data: bytes) -> bytes:
    """A .png of bits per pixel at each place, from black (none) to pale yellow (MAP_PEAK times the mean, or more)."""
    import io

    from PIL import Image

    from kodim.bench.complexity import file_map
    from kodim.bench.gallery import colours
    from kodim.bench.plots import require

    require()
    bits = file_map(data)
    stream = io.BytesIO()
    Image.fromarray(colours(bits / (MAP_PEAK * max(float(bits.mean()), 1e-9)))).save(stream, "PNG", optimize=True)
    return stream.getvalue()


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
    kind: Annotated[str | None, typer.Option(metavar="TEXT", help="learned or classical.")] = None,
    trained: Annotated[bool, typer.Option("--trained", help="Only learned codecs whose weights ship.")] = False,
    explain: Annotated[
        str | None, typer.Option(metavar="NAME", help="All there is to say about one codec: idea, paper, weights.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    as_json: Json = False,
) -> None:
    """List the codecs; the options keep those whose entry contains the text, in any case."""
    from kodim import registry

    dimensions = zip((*registry.TAXONOMY, "kind"), (network, unit, spatial, rate, range_, kind), strict=True)
    wanted: dict[str, Any] = {name: text for name, text in dimensions if text is not None}
    if markdown and as_json:
        raise BadRequest("--markdown and --json do not go together")
    if explain is not None:
        if wanted or trained or markdown:
            raise BadRequest("--explain is about one codec: it goes with --json only")
        found = _everything(registry.find(explain))
        print_json(found) if as_json else print(_explanation(found), flush=True)
        return
    entries = registry.entries(trained=trained, **wanted)
    if not entries:
        raise BadRequest(_why_none(wanted))
    if as_json:
        print_json({"codecs": [_entry_row(entry) for entry in entries]})
    elif markdown:
        print(_markdown(entries), flush=True)
    else:
        _print_codecs(entries)


def _why_none(wanted: dict[str, Any]) -> str:
    """Which filter left nothing, and what it could have been: its values among what the filters before it kept."""
    from kodim import registry

    kept: dict[str, Any] = {}
    for key, text in wanted.items():
        before = registry.entries(**kept)
        given = "".join(f" with {name} {value!r}" for name, value in kept.items())
        kept[key] = text
        if not registry.entries(**kept):
            known = ", ".join(repr(value) for value in dict.fromkeys(registry.value_of(e, key) for e in before))
            return f"no codec{given} has {key} {text!r}; there are {known}"
    return "no codec like that ships trained weights; without --trained it is listed"


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


def _trained(entry: Entry) -> str:
    return (", ".join(entry.weights) or "not yet") if entry.kind == "learned" else "-"


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
        cells = [entry.slug, entry.kind, str(entry.year or ""), _trained(entry)]
        cells += [entry.taxonomy.get(dimension, "") for dimension in dimensions]
        cells += [] if narrow else [", ".join(entry.aliases)]
        table.add_row(*map(escape, cells))
    print_table(table)


def _markdown(entries: list[Entry]) -> str:
    from kodim.registry import TAXONOMY

    headings = ("codec", "title", "year", *TAXONOMY, "weights")
    lines = ["| " + " | ".join(headings) + " |", "|---" * len(headings) + "|"]
    for entry in entries:
        title = f"[{entry.title}]({ARXIV}{entry.arxiv})" if entry.arxiv else entry.title
        cells = [f"`{entry.slug}`", title, str(entry.year or ""), *(entry.taxonomy.get(d, "") for d in TAXONOMY)]
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in (*cells, _trained(entry))) + " |")
    return "\n".join(lines)


def _everything(entry: Entry) -> dict[str, Any]:
    """What `--explain` knows: the entry, its docstring by parts, its presets' arguments, the cards of its weights."""
    from kodim.registry import weights_card

    return {
        **_entry_row(entry),
        "doc": read_doc(entry.doc),
        "sizes": entry.sizes,
        "cards": {preset: weights_card(entry.slug, preset) for preset in entry.weights},
        "improves": entry.improves,
        "place": entry.place,
    }


def read_doc(doc: str) -> dict[str, str]:
    """The parts of a system's docstring: `summary`, `paper`, `idea`, `diagram`, `shows`; "" where one is missing.

    Indented paragraphs are the diagram. Before it come summary, paper (the paragraph after the summary, when it
    holds a year and leads to no diagram) and idea; after it, what the system shows and how it differs from its paper.
    """
    paragraphs = [p.strip("\n") for p in re.split(r"\n[ \t]*\n", doc) if p.strip()]
    drawn = [i for i, p in enumerate(paragraphs) if all(line.startswith("    ") for line in p.splitlines())]
    first, last = (drawn[0], drawn[-1] + 1) if drawn else (len(paragraphs), len(paragraphs))
    head = paragraphs[:first]
    dated = len(head) > 1 and re.search(r"\b(19|20)\d\d\b", head[1]) and not head[1].endswith("::")
    paper = head[1] if dated else ""
    idea = "\n\n".join(head[2 if paper else 1 :])
    return {
        "summary": head[0] if head else "",
        "paper": paper,
        "idea": re.sub(r"::$", ":", idea),
        "diagram": "\n\n".join(paragraphs[first:last]),
        "shows": "\n\n".join(paragraphs[last:]),
    }


def _explanation(found: dict[str, Any]) -> str:
    """The same for people: paragraphs, then `name  value` lines under headings."""
    doc, link = found["doc"], f"{ARXIV}{found['arxiv']}" if found["arxiv"] else ""
    source = ", ".join(str(part) for part in (found["authors"], found["year"], link) if part)
    aliases = f"also called {', '.join(found['aliases'])}" if found["aliases"] else ""
    top = "\n".join(line for line in (f"{found['slug']}: {found['title']}", source, aliases) if line)
    place = "\n".join(line for line in (found["improves"] and f"improves {found['improves']}", found["place"]) if line)
    blocks = [top, doc["summary"], doc["paper"], doc["idea"], doc["diagram"], doc["shows"]]
    blocks += [_lines("taxonomy", found["taxonomy"]), _lines("presets", _sizes(found))]
    blocks += [_lines(f"weights of {preset}", _card_lines(card)) for preset, card in found["cards"].items()]
    blocks += [f"place\n  {place.replace(chr(10), chr(10) + '  ')}" if place else ""]
    return "\n\n".join(block for block in blocks if block)


def _lines(heading: str, values: dict[str, str]) -> str:
    width = max(map(len, values), default=0)
    rows = [f"  {name:{width}}  {value}" for name, value in values.items() if value]
    return "\n".join([heading, *rows]) if rows else ""


def _sizes(found: dict[str, Any]) -> dict[str, str]:
    """Each preset's arguments; parameters where a card counted them, which saves building the network."""
    described = {}
    for preset, arguments in found["sizes"].items():
        count = found["cards"].get(preset, {}).get("parameters")
        parts = [f"{name} {value}" for name, value in arguments.items()]
        described[preset] = ", ".join(parts + ([f"{count / 1e6:.2f} M parameters"] if count else []))
    return described


def _card_lines(card: dict[str, Any]) -> dict[str, str]:
    from kodim.registry import training_spent

    spent = training_spent(card)
    time = f"{spent['minutes']:g} minutes ({spent['core_minutes']:g} core-minutes)"
    legs = [f"{leg['codec']} {leg['minutes']:g} min on {leg.get('device', 'cpu')}" for leg in card.get("legs", ())]
    return {
        "data": card.get("data", ""),
        "training": f"{time}, {spent['megapixels'] / 1000:.2f} Gpx of crops" if legs else "",
        "legs": ", then ".join(legs),
        "loss": card.get("loss", ""),
        "file": f"{kilobytes(card['bytes'])}, {card.get('licence', 'licence not stated')}" if "bytes" in card else "",
        "figures": ", ".join(f"{name} {value}" for name, value in card.get("figures", {}).items()),
    }
