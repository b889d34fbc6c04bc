"""Arguments and options that several commands share."""

from typing import Annotated

import typer

Files = Annotated[list[str], typer.Argument(metavar="IN", help="Files, folders or globs.", show_default=False)]
Output = Annotated[
    str | None,
    typer.Option("-o", "--output", metavar="OUT", help="File (one input) or folder. Default: next to the input."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout instead of lines.")]
